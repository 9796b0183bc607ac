"""Baseline: fine-tuned as `configs/finetune.py` does, but from random weights.

To compare with pre-training at equal fine-tuning: the steps, the learning rate and the data are
those of fine-tuning. Presets whose vision tower is trained beforehand keep that tower. The judge
starts from random weights too, so L_emotion waits for it.

    python main.py --config=configs/baselines/no_pretraining.py[:preset]
"""

from ml_collections import ConfigDict

from configs import finetune, pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `finetune.get_config(preset)` for a model that was not pre-trained."""
    config = finetune.get_config(preset)
    config.name = "baselines/no_pretraining"
    start = pretrain.get_config(preset)
    config.init_from, config.init_parts = start.init_from, start.init_parts
    steps = config.train.steps
    config.objectives.emotional_response.update(
        consistency_start_step=steps // 3, consistency_ramp_steps=steps // 5
    )
    return config
