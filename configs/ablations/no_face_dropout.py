"""Without face dropout: every example has the response's face and emotion.

The model never learns to respond without them, which is what guidance compares with: it is off.

    python main.py --config=configs/ablations/no_face_dropout.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_face_dropout"
    config.objectives.emotional_response.face_dropout = 0.0
    config.generate.guidance = 0.0
    return config
