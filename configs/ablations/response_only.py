"""Pre-trained with the objectives of fine-tuning alone: what the others add at equal compute.

`baselines/no_pretraining.py` is the comparison at equal fine-tuning.

    python main.py --config=configs/ablations/response_only.py[:preset]
"""

from ml_collections import ConfigDict

from configs import finetune, pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with the weight of every other objective 0."""
    config = pretrain.get_config(preset)
    config.name = "ablations/response_only"
    for name, settings in config.objectives.items():
        if name not in finetune.TRAINED:
            settings.weight = 0.0
    return config
