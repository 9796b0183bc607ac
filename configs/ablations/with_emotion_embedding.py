"""The decoder's emotion embedding is all that binds the words to the face.

python main.py --config=configs/ablations/with_emotion_embedding.py[:preset]
"""

from ml_collections import ConfigDict

from configs.ablations import no_binding


def get_config(preset: str = "") -> ConfigDict:
    """Returns `no_binding.get_config(preset)` with this one change."""
    config = no_binding.get_config(preset)
    config.name = "ablations/with_emotion_embedding"
    config.model.emotion_embedding = "both"
    return config
