"""The contrast exchanges the response's face, and the emotion with it.

python main.py --config=configs/ablations/contrast_of_faces.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with faces contrasted, not emotions."""
    config = pretrain.get_config(preset)
    config.name = "ablations/contrast_of_faces"
    config.objectives.emotional_response.contrast_of = "face"
    return config
