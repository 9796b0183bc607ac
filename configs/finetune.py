"""Fine-tuning on response generation, from a pre-trained checkpoint.

    python main.py --config=configs/finetune.py --config.init_from=runs/pretrain-local
    python main.py --config=configs/finetune.py:paper --config.init_from=runs/pretrain-paper

`init_from` is a workdir, its checkpoints folder, or a single checkpoint; the run prints which
parameters it loaded. Use the preset that the checkpoint was trained with.

Two objectives are trained: `emotional_response`, whose emotion consistency ramps up from the first
step because the checkpoint's judge is already trained, and `text_emotion`, which keeps adapting
the judge to the data.
"""

from ml_collections import ConfigDict

from configs import pretrain

TRAINED = ("emotional_response", "text_emotion")

# The original fine-tunes for 20 epochs; OpenViDial v1 has about 1.1 million turns.
PAPER_STEPS = 20 * 1_100_000 // 128


def get_config(preset: str = "") -> ConfigDict:
    """Returns the fine-tuning config of one of `pretrain.PRESETS` ("" = "local")."""
    config = pretrain.get_config(preset)
    config.name = "finetune"
    for name, settings in config.objectives.items():
        if name not in TRAINED:
            settings.weight = 0.0
    SCHEDULES[config.preset](config)
    steps = config.train.steps
    config.objectives.emotional_response.update(
        consistency_start_step=0,
        consistency_ramp_steps=steps // 10,
        temperature_anneal_steps=steps // 2,
    )
    return config


def _local(config: ConfigDict) -> None:
    config.optim.update(peak_learning_rate=3e-4, warmup_steps=20)
    config.train.update(steps=200, evaluate_every_steps=100, checkpoint_every_steps=100)


def _small(config: ConfigDict) -> None:
    config.optim.update(peak_learning_rate=2e-4, warmup_steps=50)
    config.train.update(steps=1000, evaluate_every_steps=500)


def _paper(config: ConfigDict) -> None:
    config.optim.update(peak_learning_rate=1e-4, warmup_steps=6000)
    config.train.steps = PAPER_STEPS


def _base(config: ConfigDict) -> None:
    config.optim.update(peak_learning_rate=1e-4, warmup_steps=1000)
    config.train.update(steps=60_000)  # about 3 epochs of v2


def _large(config: ConfigDict) -> None:
    config.optim.update(peak_learning_rate=5e-5, warmup_steps=500)
    config.train.update(steps=5_000, evaluate_every_steps=500, checkpoint_every_steps=500)


SCHEDULES = {
    "local": _local,
    "small": _small,
    "paper": _paper,
    "base": _base,
    "large": _large,
    "xl": _large,
}
