"""Half the batch size, for as many examples.

python main.py --config=configs/ablations/half_batch.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with half the batch size and twice the steps."""
    config = pretrain.get_config(preset)
    config.name = "ablations/half_batch"
    config.train.batch_size = config.train.batch_size // 2
    # As many examples, and the schedules at the same share of them.
    config.train.steps = config.train.steps * 2
    config.optim.warmup_steps = config.optim.warmup_steps * 2
    loss = config.objectives.emotional_response
    for key in ("consistency_start_step", "consistency_ramp_steps", "temperature_anneal_steps"):
        loss[key] *= 2
    return config
