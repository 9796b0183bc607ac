"""What is refused before anything compiles: a config alone, then a config with its prepared data.

Each room checks what it owns; every entry point calls one of these, which combine those checks,
once at its start.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from igerg_jax import objectives, optim, text_labeller
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.data import datasets, mixtures
from igerg_jax.decoding import search
from igerg_jax.errors import UserError
from igerg_jax.parallel import sharding
from igerg_jax.run import checkpoint
from igerg_jax.setup import base_key, set_up


def check_training(config: Any, starts: bool) -> None:
    """Raises UserError where a run of `config` could not train, evaluate and save.

    Args:
      starts: the run has no checkpoint yet, so its first parameters must come from somewhere.
    """
    is_synthetic = config.data.dataset == datasets.SYNTHETIC
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
    mesh = _check_model(config, devices)
    sharding.check_batch(train.batch_size, train.accumulate_steps, mesh, "train.batch_size")
    objectives.check(config)
    _check_contrast(config)
    optim.check(config.optim, train.steps)
    return mesh


def check_inference(config: Any) -> None:
    """Raises UserError where a checkpoint could not be evaluated or generated with."""
    _check_evaluation(config, _check_model(config))


def check_data(dataset: datasets.Dataset, config: Any) -> None:
    """Raises UserError where a dataset lacks a split, or what an objective needs."""
    if config.data.dataset != datasets.SYNTHETIC:  # has everything
        mixtures.check(dataset, config)


def _check_model(config: Any, devices: Any | None = None) -> Mesh:
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


def _check_contrast(config: Any) -> None:
    weight = config.objectives.emotional_response.contrast_weight
    if weight and config.model.emotion_embedding == "none":
        raise UserError(
            f"objectives.emotional_response.contrast_weight={weight} contrasts what the decoder is "
            "told, and model.emotion_embedding='none' tells it nothing: set the weight to 0, or "
            "the embedding to 'both'"
        )


def _check_evaluation(config: Any, mesh: Mesh) -> None:
    sharding.check_batch(config.evaluate.batch_size, 1, mesh, "evaluate.batch_size")
    search.Settings.of(config)
    text_labeller.of_config(config)
