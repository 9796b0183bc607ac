"""Without `image_emotion`: emotions are never predicted from the images alone.

Shows what learning to recognise individual faces adds; the authors' code has this ablation
("without isl"). `masked_multimodal` still predicts image emotions, with the words as context.

    python main.py --config=configs/ablations/no_image_emotion.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_image_emotion"
    config.objectives.image_emotion.weight = 0.0
    return config
