"""Half the peak learning rate.

python main.py --config=configs/ablations/half_learning_rate.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with half the peak learning rate."""
    config = pretrain.get_config(preset)
    config.name = "ablations/half_learning_rate"
    config.optim.peak_learning_rate *= 0.5
    return config
