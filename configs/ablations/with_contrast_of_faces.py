"""Of what binds words to faces, only the contrast, and that of faces.

python main.py --config=configs/ablations/with_contrast_of_faces.py[:preset]
"""

from ml_collections import ConfigDict

from configs.ablations import no_binding


def get_config(preset: str = "") -> ConfigDict:
    """Returns `no_binding.get_config(preset)` with the response's face exchanged."""
    config = no_binding.get_config(preset)
    config.name = "ablations/with_contrast_of_faces"
    config.objectives.emotional_response.update(contrast_of="face", contrast_weight=0.1)
    return config
