"""Only the cross-modal objectives: each sees faces and words together.

Kept: `masked_multimodal`, `emotional_response`, `image_text_contrastive`, and also `text_emotion`,
which trains the judge that `emotional_response` needs, and no other parameter.

    python main.py --config=configs/ablations/cross_modal_only.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/cross_modal_only"
    for name in ("image_emotion", "sequence_emotion", "text_denoising"):
        config.objectives[name].weight = 0.0
    return config
