"""The contrast, and the embedding that it contrasts, are all that binds the words to the face.

python main.py --config=configs/ablations/with_face_contrast.py[:preset]
"""

from ml_collections import ConfigDict

from configs.ablations import no_binding


def get_config(preset: str = "") -> ConfigDict:
    """Returns `no_binding.get_config(preset)` with the contrast and the embedding."""
    config = no_binding.get_config(preset)
    config.name = "ablations/with_face_contrast"
    config.model.emotion_embedding = "both"
    config.objectives.emotional_response.contrast_weight = 0.1
    return config
