"""Without `image_text_contrastive`: nothing binds a window's images to its words.

The paper preset has it off already: there, this is `pretrain.py` itself.

    python main.py --config=configs/ablations/no_image_text_contrastive.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one idea changed."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_image_text_contrastive"
    config.objectives.image_text_contrastive.weight = 0.0
    return config
