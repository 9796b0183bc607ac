"""Without `masked_multimodal`: no masked words are filled in with the images' help.

The only objective in which words and faces explain each other inside the encoder.

    python main.py --config=configs/ablations/no_masked_multimodal.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one idea changed."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_masked_multimodal"
    config.objectives.masked_multimodal.weight = 0.0
    return config
