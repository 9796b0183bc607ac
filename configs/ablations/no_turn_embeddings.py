"""Without turn embeddings: the encoder cannot tell which face goes with which words.

The released code has none either, so its encoder is blind to the order of the images.

    python main.py --config=configs/ablations/no_turn_embeddings.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_turn_embeddings"
    config.model.turn_embeddings = False
    return config
