"""L_emotion through the straight-through estimator: argmax forward, softmax backward.

Identical to `pretrain.py`; it exists so that a sweep over estimators can name all four.

    python main.py --config=configs/ablations/estimator_straight_through.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/estimator_straight_through"
    config.objectives.emotional_response.estimator = "straight_through"
    return config
