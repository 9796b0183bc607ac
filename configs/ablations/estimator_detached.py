"""L_emotion on argmax tokens, without a gradient: what the released code does.

The term is computed and logged but does not affect the generator. Compare with
`no_consistency`: these two must train identically, and the other estimators must not.

    python main.py --config=configs/ablations/estimator_detached.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this estimator."""
    config = pretrain.get_config(preset)
    config.name = "ablations/estimator_detached"
    config.objectives.emotional_response.estimator = "detached"
    return config
