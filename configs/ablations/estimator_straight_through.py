"""L_emotion through the straight-through estimator: argmax forward, softmax backward.

What `pretrain.py` does; kept as a file so that a sweep over estimators names all four.

    python main.py --config=configs/ablations/estimator_straight_through.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one idea changed."""
    config = pretrain.get_config(preset)
    config.name = "ablations/estimator_straight_through"
    config.objectives.emotional_response.estimator = "straight_through"
    return config
