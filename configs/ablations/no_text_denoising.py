"""Without `text_denoising`: the decoder learns from responses only.

Shows what reconstructing corrupted contexts (BART's infilling) adds to the text model.

    python main.py --config=configs/ablations/no_text_denoising.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_text_denoising"
    config.objectives.text_denoising.weight = 0.0
    return config
