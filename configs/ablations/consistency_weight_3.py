"""L_emotion with a weight (lambda after its ramp) of 3.0; the preset's is 0.3.

python main.py --config=configs/ablations/consistency_weight_3.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/consistency_weight_3"
    config.objectives.emotional_response.consistency_weight = 3.0
    return config
