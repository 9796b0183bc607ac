"""Only the single-modal objectives: faces without words, words without faces.

Objectives that the preset switches off stay off. The decoder never learns to respond, so fine-tune
before comparing responses.

    python main.py --config=configs/ablations/single_modal_only.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain

KEPT = ("image_emotion", "sequence_emotion", "text_denoising", "text_emotion")


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with the weight of every other objective 0."""
    config = pretrain.get_config(preset)
    config.name = "ablations/single_modal_only"
    for name, settings in config.objectives.items():
        if name not in KEPT:
            settings.weight = 0.0
    return config
