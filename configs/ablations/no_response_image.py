"""Without the response's own image: the model is not shown the face of the responder.

The original shows it. A chatbot has to choose the emotion of its response without it.
With no face to take it from, no emotion conditions the decoder, and there is no face to withhold:
the contrast, face dropout and guidance are off.

    python main.py --config=configs/ablations/no_response_image.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain, pretrain_presets


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` without that image and what needs it."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_response_image"
    config.data.include_response_image = False
    pretrain_presets.without_emotion_conditioning(config)
    return config
