"""From a run that only learnt to read faces: what binds words comes after them.

python main.py --config=configs/ablations/faces_first.py[:preset] --config.init_from=FOLDER
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)`, to start from a run of image_emotion alone."""
    config = pretrain.get_config(preset)
    config.name = "ablations/faces_first"
    return config
