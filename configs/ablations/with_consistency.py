"""L_emotion is all that binds the words to the face.

python main.py --config=configs/ablations/with_consistency.py[:preset]
"""

from ml_collections import ConfigDict

from configs.ablations import no_binding


def get_config(preset: str = "") -> ConfigDict:
    """Returns `no_binding.get_config(preset)` with this one change."""
    config = no_binding.get_config(preset)
    config.name = "ablations/with_consistency"
    config.objectives.emotional_response.consistency_weight = 0.3
    return config
