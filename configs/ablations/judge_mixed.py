"""The judge is also trained on corrupted words and mixed embeddings.

python main.py --config=configs/ablations/judge_mixed.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/judge_mixed"
    config.objectives.text_emotion.mixed_weight = 0.5
    return config
