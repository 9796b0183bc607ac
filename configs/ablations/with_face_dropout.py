"""Face dropout, and the guidance that it allows, are all that binds the words to the face.

python main.py --config=configs/ablations/with_face_dropout.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain
from configs.ablations import no_binding


def get_config(preset: str = "") -> ConfigDict:
    """Returns `no_binding.get_config(preset)` with face dropout and guidance."""
    config = no_binding.get_config(preset)
    config.name = "ablations/with_face_dropout"
    config.objectives.emotional_response.face_dropout = 0.2
    config.generate.guidance = pretrain.get_config(preset).generate.guidance
    return config
