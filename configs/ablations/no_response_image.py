"""Without the response's own image: the model does not see the face that goes with its response.

The original provides it. A chatbot has to choose the emotion of its response without it.

    python main.py --config=configs/ablations/no_response_image.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_response_image"
    config.data.include_response_image = False
    # With no face to take it from, no emotion is told.
    config.model.emotion_embedding = "none"
    config.objectives.emotional_response.contrast_weight = 0.0
    return config
