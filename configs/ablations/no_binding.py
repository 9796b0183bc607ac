"""Without anything that binds the words to the face: likelihood alone.

No contrast, no consistency, no emotion embedding, no faces withheld and no guidance: the face
reaches the decoder through the encoder, as in the original. The with_… configs add one of them.

    python main.py --config=configs/ablations/no_binding.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with these changes."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_binding"
    config.objectives.emotional_response.consistency_weight = 0.0
    pretrain.without_emotion_conditioning(config)
    return config
