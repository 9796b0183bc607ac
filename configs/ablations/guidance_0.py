"""Decodes without guidance; training is the same.

`igerg_jax.tools.guidance_sweep` measures several values on one trained run.

    python main.py --config=configs/ablations/guidance_0.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/guidance_0"
    config.generate.guidance = 0.0
    return config
