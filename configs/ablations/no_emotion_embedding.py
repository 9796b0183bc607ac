"""Without emotion embeddings: the decoder is not conditioned on an emotion.

The response's face reaches it through the encoder alone. The contrast is off too: without the
embeddings there is nothing to contrast. Face dropout and guidance stay.

    python main.py --config=configs/ablations/no_emotion_embedding.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` without the embeddings and the contrast."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_emotion_embedding"
    config.model.emotion_embedding = "none"
    config.objectives.emotional_response.contrast_weight = 0.0
    return config
