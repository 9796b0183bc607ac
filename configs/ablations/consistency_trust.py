"""L_emotion counts as far as the judge reads people's own response, from the first step on.

python main.py --config=configs/ablations/consistency_trust.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/consistency_trust"
    config.objectives.emotional_response.update(consistency_trust=True, consistency_start_step=0)
    return config
