"""Without images: every image is masked out, and only objectives that need none stay on.

What the words alone can teach, with the same model and data. With no face to take it from, no
emotion conditions the decoder, and there is no face to withhold: the contrast, face dropout and
guidance are off. `masked_multimodal` keeps its masked words; its image term is empty.
`baselines/text_only.py` is the stricter comparison, without any pre-training objective.

    python main.py --config=configs/ablations/no_images.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain, pretrain_presets

KEPT = ("text_denoising", "text_emotion", "masked_multimodal", "emotional_response")


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` without images and what needs them."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_images"
    config.data.use_images = False
    for name, settings in config.objectives.items():
        if name not in KEPT:
            settings.weight = 0.0
    pretrain_presets.without_emotion_conditioning(config)
    return config
