"""L_emotion through the straight-through estimator: argmax forward, softmax backward.

This is the default: the config trains as `pretrain.py` does, and exists so that a sweep over
estimators can name all four.

    python main.py --config=configs/ablations/estimator_straight_through.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)`, which has this estimator, under its own name."""
    config = pretrain.get_config(preset)
    config.name = "ablations/estimator_straight_through"
    config.objectives.emotional_response.estimator = "straight_through"
    return config
