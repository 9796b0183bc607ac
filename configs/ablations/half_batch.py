"""Half the batch size, for as many examples.

python main.py --config=configs/ablations/half_batch.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with half the batch size and twice the steps."""
    config = pretrain.get_config(preset)
    config.name = "ablations/half_batch"
    config.train.batch_size = round(config.train.batch_size * 0.5)
    # As many examples, and the schedules at the same share of them.
    config.train.steps = round(config.train.steps / 0.5)
    config.optim.warmup_steps = round(config.optim.warmup_steps / 0.5)
    loss = config.objectives.emotional_response
    for key in ("consistency_start_step", "consistency_ramp_steps", "temperature_anneal_steps"):
        loss[key] = round(loss[key] / 0.5)
    return config
