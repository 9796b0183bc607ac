"""Without L_emotion: `emotional_response` is maximum likelihood alone.

The judge is still trained, so that its accuracy can be compared, but the generator ignores it.

    python main.py --config=configs/ablations/no_consistency.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_consistency"
    config.objectives.emotional_response.consistency_weight = 0.0
    return config
