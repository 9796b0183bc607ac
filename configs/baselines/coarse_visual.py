"""Baseline: OpenViDial's coarse visual model, one feature vector per image beside the words.

Trained by maximum likelihood alone. The vectors enter the encoder alongside the words, as the
paper describes; the released code overwrites the fused embedding and so ignores its images.
Published on v1: BLEU-1/2/4 14.70/4.38/1.14.

Presets that use OpenViDial read its precomputed ResNet-50 vectors, 1000 wide. Other data has none:
there the preset's vision tower makes one vector per image.

    python main.py --config=configs/baselines/coarse_visual.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain, pretrain_presets

OPENVIDIAL_FEATURES = 1000


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with response likelihood only, one vector per image."""
    config = pretrain.get_config(preset)
    config.name = "baselines/coarse_visual"
    config.model.vision.tokens_per_image = 1
    if config.data.dataset.startswith("openvidial"):
        config.model.vision.update(kind="features", frozen=False)
        config.data.dataset += "_features"  # precomputed vectors in place of frames
        config.data.feature_dim = OPENVIDIAL_FEATURES
    for name, settings in config.objectives.items():
        settings.weight = 1.0 if name == "emotional_response" else 0.0
    config.objectives.emotional_response.consistency_weight = 0.0
    pretrain_presets.without_emotion_conditioning(config)
    return config
