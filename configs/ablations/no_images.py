"""Without images: every image is masked out, and objectives that need one are off.

What the words alone can teach, with the same model, data and remaining objectives.
With no face to take it from, no emotion conditions the decoder, and there is no face to withhold:
the contrast, face dropout and guidance are off. `masked_multimodal` keeps its masked words; its
image term is empty. `baselines/text_only.py` is the stricter comparison, without any pre-training
objective.

    python main.py --config=configs/ablations/no_images.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_images"
    config.data.use_images = False
    for name in ("image_emotion", "sequence_emotion", "image_text_contrastive"):
        config.objectives[name].weight = 0.0
    pretrain.without_emotion_conditioning(config)
    return config
