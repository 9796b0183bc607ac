"""L_emotion is weighted by the judge's probability of the label for the reference response.

The ramp starts at step 0: while the judge is untrained, that probability keeps the term small.

    python main.py --config=configs/ablations/consistency_trust.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with `consistency_trust`, from step 0 on."""
    config = pretrain.get_config(preset)
    config.name = "ablations/consistency_trust"
    config.objectives.emotional_response.update(consistency_trust=True, consistency_start_step=0)
    return config
