"""L_emotion through straight-through Gumbel-softmax: the judge reads sampled words.

Noise on z_t lets the judge see what sampling would produce, not only the likeliest words.

    python main.py --config=configs/ablations/estimator_gumbel.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this estimator."""
    config = pretrain.get_config(preset)
    config.name = "ablations/estimator_gumbel"
    config.objectives.emotional_response.estimator = "gumbel"
    return config
