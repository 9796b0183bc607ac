"""Without L_emotion and the contrast: the response is learnt by maximum likelihood alone.

The decoder is still conditioned on the emotion, and decoding is still guided; `no_binding` leaves
these out too.

    python main.py --config=configs/ablations/no_consistency_no_contrast.py[:preset]
"""

from ml_collections import ConfigDict

from configs.ablations import no_consistency


def get_config(preset: str = "") -> ConfigDict:
    """Returns `no_consistency.get_config(preset)` with this one change."""
    config = no_consistency.get_config(preset)
    config.name = "ablations/no_consistency_no_contrast"
    config.objectives.emotional_response.contrast_weight = 0.0
    return config
