"""L_emotion on argmax words, without a gradient: the released code's behaviour.

The term is computed and logged and changes nothing in the generator. Compare with
`no_consistency`: the two must train alike, and the other estimators must differ.

    python main.py --config=configs/ablations/estimator_detached.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one idea changed."""
    config = pretrain.get_config(preset)
    config.name = "ablations/estimator_detached"
    config.objectives.emotional_response.estimator = "detached"
    return config
