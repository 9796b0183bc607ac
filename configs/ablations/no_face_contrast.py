"""Without the contrast: the response need not be likelier under its own emotion than under another.

The decoder is still conditioned on the emotion, and may ignore it.

    python main.py --config=configs/ablations/no_face_contrast.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_face_contrast"
    config.objectives.emotional_response.contrast_weight = 0.0
    return config
