"""Decodes with a guidance of 2, however strong it is in the preset; training is the same.

Nothing changes where the preset never withholds the response's face (`paper`), since guidance leads
away from responses without it. `igerg_jax.tools.guidance_sweep` measures several values on one run.

    python main.py --config=configs/ablations/guidance_2.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/guidance_2"
    if config.objectives.emotional_response.face_dropout:
        config.generate.guidance = 2.0
    return config
