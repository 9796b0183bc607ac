"""The contrast exchanges the response's face, and no emotion conditions the decoder.

python main.py --config=configs/ablations/contrast_of_faces_no_emotion_embedding.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with faces contrasted, no embedding."""
    config = pretrain.get_config(preset)
    config.name = "ablations/contrast_of_faces_no_emotion_embedding"
    config.model.emotion_embedding = "none"
    config.objectives.emotional_response.contrast_of = "face"
    return config
