"""Config and data validation, run before anything compiles.

Each room checks what it owns; every entry point calls one of these, which combine those checks,
once at its start.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from igerg_jax import objectives, optim, text_labeller
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.constraints import Range, check_constraints
from igerg_jax.data import config_checks, datasets, mixtures
from igerg_jax.decoding import search
from igerg_jax.errors import UserError
from igerg_jax.models import settings
from igerg_jax.parallel import sharding
from igerg_jax.run import checkpoint
from igerg_jax.setup import base_key, set_up

TRAIN_RANGES = (
    Range("batch_size", at_least=1),
    Range("steps", at_least=1),
    Range("accumulate_steps", at_least=1),
    Range("log_every_steps", at_least=1),
    Range("evaluate_every_steps", at_least=0),
    Range("checkpoint_every_steps", at_least=0),
    Range("keep_checkpoints", at_least=1),
    Range("max_consecutive_skips", at_least=1),
    Range("stall_seconds", at_least=0),
)
EVALUATE_RANGES = (
    Range("batch_size", at_least=1),
    Range("examples", at_least=0),
    Range("generated_examples", at_least=0),
    Range("following_examples", at_least=0),
)
GENERATE_RANGES = (Range("examples", at_least=0),)  # `search.Settings` has the others
PROFILE_RANGES = (Range("after_steps", at_least=0), Range("steps", at_least=0))


def check_training(config: Any, starts: bool) -> None:
    """Raises UserError where a run of `config` could not train, evaluate and save.

    Args:
      starts: the run has no checkpoint yet, so its first parameters must come from somewhere.
    """
    is_synthetic = config.data.dataset == datasets.SYNTHETIC
    check_constraints("profile", config.profile, PROFILE_RANGES)
    _check_evaluation(config, check_step(config))
    checkpoint.check_retention(config)
    if not is_synthetic:
        mixtures.check_start(config)
    if not starts:
        return
    if config.init_from:
        checkpoint.find(config.init_from)
    elif config.name == "finetune":
        raise UserError(
            "fine-tuning starts from a checkpoint; add --config.init_from=WORKDIR, the folder of "
            "a pre-training run such as runs/pretrain-local"
        )
    elif config.model.vision.frozen and not is_synthetic:
        raise UserError(
            "model.vision.frozen=True would keep random weights: start from a checkpoint that has "
            "the vision tower (--config.init_from=DIR), or train it "
            "(--config.model.vision.frozen=False)"
        )


def check_step(config: Any, devices: Any | None = None) -> Mesh:
    """Raises UserError where the training step could not be built; returns the mesh.

    Args:
      devices: that the step is compiled for; default all of this machine's.
    """
    train = config.train
    check_constraints("train", train, TRAIN_RANGES)
    mesh = _check_model(config, devices)
    sharding.check_batch(train.batch_size, train.accumulate_steps, mesh, "train.batch_size")
    objectives.check(config)
    optim.check(config.optim, train.steps)
    return mesh


def check_examples(config: Any) -> None:
    """Raises UserError where there could be no examples to look at, on any machine."""
    config_checks.check(config.data)
    objectives.check(config)
    mixtures.check_start(config)


def check_inference(config: Any) -> None:
    """Raises UserError where a checkpoint could not be evaluated or generated with."""
    _check_evaluation(config, _check_model(config))


def check_data(dataset: datasets.Dataset, config: Any) -> None:
    """Raises UserError where a dataset does not fit the config, or lacks a split or what an
    objective needs."""
    if config.data.dataset != datasets.SYNTHETIC:  # has everything
        mixtures.check(dataset, config)


def check_evaluation_data(
    dataset: datasets.Dataset, config: Any, keys: Sequence[str] = mixtures.SPLIT_KEYS
) -> None:
    """Raises UserError where there is nothing to evaluate or to respond to.

    Args:
      keys: of `config.data`, of the splits that are used; an evaluation counts words in the one
        that was trained on, too.
    """
    if not dataset.split_names:
        raise UserError(f"data.dataset is '{config.data.dataset}': there is nothing to evaluate on")
    mixtures.check_splits(dataset, config, keys)


def _check_model(config: Any, devices: Any | None = None) -> Mesh:
    config_checks.check(config.data)
    check_constraints("model", config.model, settings.RANGES)
    dtype = config.model.compute_dtype
    try:
        jnp.dtype(dtype)
    except TypeError as error:
        raise UserError(f"model.compute_dtype='{dtype}': {error}") from error
    # A tokenizer that is given may have another vocabulary size; nothing else can differ.
    setup = set_up(config, config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS, devices)
    try:
        jax.eval_shape(lambda: base_key(config))
    except ValueError as error:  # JAX's own message lists the known names
        raise UserError(f"train.prng: {error}") from error
    return setup.mesh


def _check_evaluation(config: Any, mesh: Mesh) -> None:
    check_constraints("evaluate", config.evaluate, EVALUATE_RANGES)
    check_constraints("generate", config.generate, GENERATE_RANGES)
    sharding.check_batch(config.evaluate.batch_size, 1, mesh, "evaluate.batch_size")
    search.Settings.of(config)
    text_labeller.of_config(config)
