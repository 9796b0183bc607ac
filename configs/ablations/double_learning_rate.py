"""Twice the peak learning rate.

python main.py --config=configs/ablations/double_learning_rate.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with twice the peak learning rate."""
    config = pretrain.get_config(preset)
    config.name = "ablations/double_learning_rate"
    config.optim.peak_learning_rate *= 2
    return config
