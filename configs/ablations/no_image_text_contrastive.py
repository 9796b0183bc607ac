"""Without `image_text_contrastive`: nothing aligns a window's images with its words.

In the presets paper and small it is off anyway: there this equals `pretrain.py`.

    python main.py --config=configs/ablations/no_image_text_contrastive.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_image_text_contrastive"
    config.objectives.image_text_contrastive.weight = 0.0
    return config
