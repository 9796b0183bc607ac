"""Without L_emotion and the contrast: the response is learnt by maximum likelihood alone.

The decoder is still conditioned on the emotion, and decoding is still guided; `no_binding` leaves
these out too.

    python main.py --config=configs/ablations/no_consistency_no_contrast.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` without these two."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_consistency_no_contrast"
    config.objectives.emotional_response.update(consistency_weight=0.0, contrast_weight=0.0)
    return config
