"""Without face dropout: every example has the response's face and emotion.

Guidance is off too: it compares with responses without them, which the model never learns.

    python main.py --config=configs/ablations/no_face_dropout.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` without face dropout and guidance."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_face_dropout"
    config.objectives.emotional_response.face_dropout = 0.0
    config.generate.guidance = 0.0
    return config
