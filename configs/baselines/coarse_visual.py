"""Baseline: OpenViDial's coarse visual model, one feature vector an image beside the words.

Trained by maximum likelihood alone. The vectors are encoder inputs among the words', as the
paper describes it; the released code overwrites the fused embedding and so ignores its images.
Published on v1: BLEU-1/2/4 14.70/4.38/1.14.

With the presets that read OpenViDial the vectors are its stored ResNet-50 ones, 1000 wide. The
embedded data of `local` stores none: there, a small ViT that is trained makes one vector an image.

    python main.py --config=configs/baselines/coarse_visual.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain

OPENVIDIAL_FEATURES = 1000


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with response likelihood only, one vector an image."""
    config = pretrain.get_config(preset)
    config.name = "baselines/coarse_visual"
    config.model.vision.tokens_per_image = 1
    if config.data.dataset.startswith("openvidial"):
        config.model.vision.update(kind="features", frozen=False)
        config.data.feature_dim = OPENVIDIAL_FEATURES
    for name, settings in config.objectives.items():
        settings.weight = 1.0 if name == "emotional_response" else 0.0
    config.objectives.emotional_response.consistency_weight = 0.0
    return config
