"""Fine-tuning on response generation, from a pre-trained checkpoint.

    python main.py --config=configs/finetune.py --config.init_from=runs/pretrain-local
    python main.py --config=configs/finetune.py:paper --config.init_from=runs/pretrain-paper
    python main.py --config=configs/finetune.py:meld+no_consistency \\
        --config.init_from=runs/ablations-no_consistency-meld

`init_from` is a workdir, its checkpoints folder, or a single checkpoint; the run prints which
parameters it loaded. Use the preset that the checkpoint was trained with and, after a plus sign,
the ablation or baseline: the response is then learned as it was there.

`emotional_response` is trained, whose emotion consistency ramps up from the first step because the
checkpoint's judge is already trained, with what it relies on, unless pre-training left that out:
`text_emotion`, which keeps adapting the judge to the data, and `image_emotion`, whose reading of
the response's face conditions the decoder when it decodes (not where nothing conditions it).
"""

import importlib
import pathlib

from ml_collections import ConfigDict

from configs import pretrain

TRAINED = ("emotional_response", "text_emotion", "image_emotion")
FOLDERS = ("ablations", "baselines")

# The original fine-tunes for 20 epochs; OpenViDial v1 has about 1.1 million turns.
PAPER_STEPS = 20 * 1_100_000 // 128


def get_config(preset: str = "") -> ConfigDict:
    """Returns the fine-tuning config of PRESET or PRESET+ABLATION, with one of
    `pretrain.PRESETS` ("" = "local")."""
    name, plus, ablation = preset.partition("+")
    config = of(_ablation(ablation).get_config(name) if plus else pretrain.get_config(name))
    config.name, config.preset = "finetune", config.preset + plus + ablation
    return config


def of(config: ConfigDict) -> ConfigDict:
    """Changes a pre-training config to that of its fine-tuning, and returns it."""
    for name, settings in config.objectives.items():
        if name not in TRAINED:
            settings.weight = 0.0
    config.objectives.emotional_response.weight = 1.0  # also where pre-training left it out
    if config.model.emotion_embedding == "none":
        config.objectives.image_emotion.weight = 0.0
    config.init_from, config.init_parts = "", ()  # all of a checkpoint that is to be named
    SCHEDULES[config.preset](config)
    steps = config.train.steps
    config.objectives.emotional_response.update(
        consistency_start_step=0,
        consistency_ramp_steps=steps // 10,
        temperature_anneal_steps=steps // 2,
    )
    return config


def _ablation(name: str):
    """The module of an ablation or a baseline."""
    here = pathlib.Path(__file__).parent
    files = (file for folder in FOLDERS for file in (here / folder).glob("[a-z]*.py"))
    places = {file.stem: file.parent.name for file in files}
    if name not in places:
        raise ValueError(f"unknown ablation '{name}'; available: {', '.join(sorted(places))}")
    return importlib.import_module(f"configs.{places[name]}.{name}")


def _local(config: ConfigDict) -> None:
    config.optim.update(peak_learning_rate=3e-4, warmup_steps=20)
    config.train.update(steps=200, evaluate_every_steps=100, checkpoint_every_steps=100)


def _small(config: ConfigDict) -> None:
    config.optim.update(peak_learning_rate=2e-4, warmup_steps=50)
    config.train.update(steps=1000, evaluate_every_steps=500)


def _real_faces(config: ConfigDict) -> None:
    # Fast enough for a model that was not pre-trained: both are to be fine-tuned alike.
    config.optim.update(peak_learning_rate=1e-3, warmup_steps=50)
    config.train.update(steps=600, evaluate_every_steps=300, checkpoint_every_steps=300)


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
    "daily_dialog": _real_faces,
    "meld": _real_faces,
    "paper": _paper,
    "base": _base,
    "large": _large,
    "xl": _large,
}
