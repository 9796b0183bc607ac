"""Without `masked_multimodal`: no masked words are predicted with the help of the images.

It is the only objective in which the encoder uses words and faces to explain each other.

    python main.py --config=configs/ablations/no_masked_multimodal.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_masked_multimodal"
    config.objectives.masked_multimodal.weight = 0.0
    return config
