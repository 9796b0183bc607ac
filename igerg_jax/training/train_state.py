"""The state that training changes, and how it is made and placed."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from igerg_jax import objectives, optim
from igerg_jax.batch import SpecialIds
from igerg_jax.errors import UserError
from igerg_jax.parallel import sharding
from igerg_jax.setup import Setup, base_key, init_params, mesh_context, set_up


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds. `step` counts batches read, skipped ones too."""

    step: jax.Array  # int32 scalar
    params: Any  # float32
    opt_state: Any
    ema_params: Any  # None without a moving average
    skipped_steps: jax.Array  # int32 scalar, of the whole run
    consecutive_skips: jax.Array  # int32 scalar


@dataclasses.dataclass(frozen=True)
class TrainingSetup(Setup):
    """A `Setup` with what training adds.

    Attributes:
      abstract_state: a `TrainState` of `jax.ShapeDtypeStruct` leaves with their shardings.
    """

    optimizer: optax.GradientTransformation
    abstract_state: TrainState


def set_up_training(
    config: Any, vocab_size: int, special: SpecialIds, devices=None
) -> TrainingSetup:
    """`setup.set_up`, an optimizer, and the abstract state; no data are read.

    Args:
      devices: default all of the process's backend.

    Raises:
      UserError: the mesh does not fit the devices, a size does not divide, a name is unknown.
    """
    objectives.check(config)
    _check_prng(config)
    setup = set_up(config, vocab_size, special, devices)
    train, mesh, params = config.train, setup.mesh, setup.abstract_params
    sharding.check_batch(train.batch_size, train.accumulate_steps, mesh, "train.batch_size")
    frozen = ("vision_tower",) if config.model.vision.frozen else ()
    optimizer = optim.optimizer(config.optim, train.steps, frozen)
    state = jax.eval_shape(lambda p: new_state(config, optimizer, p), params)
    everywhere = sharding.replicated(mesh)
    state = state.replace(
        step=sharding.abstract(state.step, everywhere),
        params=params,
        opt_state=_place_opt_state(optimizer, state.opt_state, params, everywhere),
        ema_params=params if config.optim.ema_decay else None,
        skipped_steps=sharding.abstract(state.skipped_steps, everywhere),
        consecutive_skips=sharding.abstract(state.consecutive_skips, everywhere),
    )
    return TrainingSetup(**vars(setup), optimizer=optimizer, abstract_state=state)


def init_state(setup: TrainingSetup) -> TrainState:
    """A fresh state, made on the devices where it lives: the same values on any mesh."""
    return lower_init(setup).compile()()


def lower_init(setup: TrainingSetup):
    """What makes `init_state`'s result, traced and lowered: it takes nothing."""
    config, model = setup.config, setup.model

    def init():
        params = nn.meta.unbox(init_params(config, model, setup.spec))
        return new_state(config, setup.optimizer, params)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_state)
    # It runs once, in a moment; a CPU's compiler takes three times as long when it optimises.
    on_cpu = setup.mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    with mesh_context(setup):
        return jax.jit(init, out_shardings=shardings, compiler_options=options).lower()


def new_state(config: Any, optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """The state of step 0 around `params`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if config.optim.ema_decay else None,
        skipped_steps=jnp.zeros((), jnp.int32),
        consecutive_skips=jnp.zeros((), jnp.int32),
    )


def _check_prng(config: Any) -> None:
    try:
        jax.eval_shape(lambda: base_key(config))
    except ValueError as error:  # JAX's own message names what there is
        raise UserError(f"train.prng: {error}") from error


def _place_opt_state(optimizer, opt_state: Any, params: Any, everywhere) -> Any:
    """Moments lie where their parameters do; the rest, Adafactor's rows and columns too, is on
    every device."""

    def masked(leaf) -> bool:  # what stands for a frozen parameter
        return isinstance(leaf, optax.MaskedNode)

    def place(leaf, parameter):
        if masked(leaf):
            return leaf
        beside = leaf.shape == parameter.shape
        return sharding.abstract(leaf, parameter.sharding if beside else everywhere)

    return optax.tree_utils.tree_map_params(
        optimizer,
        place,
        opt_state,
        params,
        transform_non_params=lambda leaf: sharding.abstract(leaf, everywhere),
        is_leaf=masked,
    )
