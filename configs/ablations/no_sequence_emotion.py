"""Without `sequence_emotion`: CLS does not predict the overall emotion of the images.

The authors' code has this ablation ("without cls").

    python main.py --config=configs/ablations/no_sequence_emotion.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_sequence_emotion"
    config.objectives.sequence_emotion.weight = 0.0
    return config
