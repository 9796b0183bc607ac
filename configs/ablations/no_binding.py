"""Responses learned by likelihood alone, without anything that binds the words to the face.

No contrast, no consistency, no emotion embedding, no face dropout and no guidance: the face reaches
the decoder through the encoder, as in the original. Each with_… config adds one of them, and what
that one needs.

    python main.py --config=configs/ablations/no_binding.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain, pretrain_presets


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` without any of these."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_binding"
    config.objectives.emotional_response.consistency_weight = 0.0
    pretrain_presets.without_emotion_conditioning(config)
    return config
