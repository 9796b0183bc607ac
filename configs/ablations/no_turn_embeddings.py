"""Without turn embeddings: the encoder cannot tell whose face belongs to which words.

The released code's encoder has none, and cannot tell one order of images from another.

    python main.py --config=configs/ablations/no_turn_embeddings.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one idea changed."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_turn_embeddings"
    config.model.turn_embeddings = False
    return config
