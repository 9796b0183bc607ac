"""Without `image_emotion`: no image is asked for its emotion from images alone.

Shows what recognising single faces adds; the authors' code has this ablation ("without isl").
`masked_multimodal` still asks for image emotions, with the words beside them.

    python main.py --config=configs/ablations/no_image_emotion.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one idea changed."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_image_emotion"
    config.objectives.image_emotion.weight = 0.0
    return config
