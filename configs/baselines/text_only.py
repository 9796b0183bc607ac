"""Baseline: the next turn from the words alone, without images.

A plain encoder-decoder trained by maximum likelihood: no images, no pre-training objectives, no
judge. It is OpenViDial's "no visual" model. Published on v1: BLEU-1/2/4 14.06/3.80/0.95.

    python main.py --config=configs/baselines/text_only.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain, pretrain_presets


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with response likelihood only, images masked out."""
    config = pretrain.get_config(preset)
    config.name = "baselines/text_only"
    config.data.use_images = False
    for name, settings in config.objectives.items():
        settings.weight = 1.0 if name == "emotional_response" else 0.0
    config.objectives.emotional_response.consistency_weight = 0.0
    pretrain_presets.without_emotion_conditioning(config)
    return config
