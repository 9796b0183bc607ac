"""L_emotion with a weight (lambda after its ramp) of 0.1; the preset's is 0.3.

python main.py --config=configs/ablations/consistency_weight_0_1.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/consistency_weight_0_1"
    config.objectives.emotional_response.consistency_weight = 0.1
    return config
