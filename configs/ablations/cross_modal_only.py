"""Only the cross-modal objectives: each sees faces and words together.

`text_emotion` is kept as well: it trains the judge that `emotional_response` needs, and no other
parameter. Objectives that the preset switches off stay off.

    python main.py --config=configs/ablations/cross_modal_only.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain

KEPT = ("masked_multimodal", "emotional_response", "image_text_contrastive", "text_emotion")


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with the weight of every other objective 0."""
    config = pretrain.get_config(preset)
    config.name = "ablations/cross_modal_only"
    for name, settings in config.objectives.items():
        if name not in KEPT:
            settings.weight = 0.0
    return config
