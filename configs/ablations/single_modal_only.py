"""Only the single-modal objectives: faces without words, words without faces.

Kept: `image_emotion`, `sequence_emotion`, `text_denoising`, `text_emotion`. The decoder never
learns to respond, so fine-tune before comparing responses.

    python main.py --config=configs/ablations/single_modal_only.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/single_modal_only"
    for name in ("masked_multimodal", "emotional_response", "image_text_contrastive"):
        config.objectives[name].weight = 0.0
    return config
