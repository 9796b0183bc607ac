"""Without images: every image is masked out, and what needs one is off.

All that the words alone can teach, with the same model, data and other objectives.
`masked_multimodal` keeps its words; its image term counts nothing. `baselines/text_only.py` is
the stricter comparison, without any pre-training objective.

    python main.py --config=configs/ablations/no_images.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one idea changed."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_images"
    config.data.use_images = False
    for name in ("image_emotion", "sequence_emotion", "image_text_contrastive"):
        config.objectives[name].weight = 0.0
    return config
