"""The training state: its initialisation and its sharding."""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from igerg_jax import objectives, optim
from igerg_jax.batch import BatchSpec, SpecialIds
from igerg_jax.parallel import sharding
from igerg_jax.setup import Setup, init_params, initialiser, mesh_context, set_up, with_kept_trace


class TrainState(flax.struct.PyTreeNode):
    """The arrays of a checkpoint. `step` counts the batches consumed, skipped steps included."""

    step: jax.Array  # int32 scalar
    params: Any  # float32
    opt_state: Any
    ema_params: Any  # None without a moving average
    skipped_steps: jax.Array  # int32 scalar, of the whole run
    consecutive_skips: jax.Array  # int32 scalar
    reference_params: Any = None  # as training started; None where no objective reads them


@dataclasses.dataclass(frozen=True)
class TrainingSetup(Setup):
    """A `Setup` with an optimizer and the abstract training state."""

    optimizer: optax.GradientTransformation
    abstract_state: TrainState  # of `jax.ShapeDtypeStruct` leaves with their shardings

    @property
    def state_shardings(self) -> TrainState:
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)

    def by_length(self) -> list["TrainingSetup"]:
        """One for each size of a batch, from the shortest: `BatchSpec.by_length`."""
        specs = BatchSpec.by_length(self.config.data, self.config.train.batch_size)
        return [dataclasses.replace(self, spec=spec) for spec in specs]


def set_up_training(
    config: Any, vocab_size: int, special: SpecialIds, devices=None
) -> TrainingSetup:
    """`setup.set_up`, with the optimizer and state, for a config that has passed the checks.

    Raises:
      UserError: a parameter's dimension does not divide over its mesh axes.
    """
    setup = set_up(config, vocab_size, special, devices, objectives.parts(config))
    params = setup.abstract_params
    frozen = ("vision_tower",) if config.model.vision.frozen else ()
    optimizer = optim.optimizer(config.optim, config.train.steps, frozen)
    state = jax.eval_shape(lambda p: new_state(config, optimizer, p), params)
    everywhere = sharding.replicated(setup.mesh)
    state = jax.tree.map(lambda leaf: sharding.abstract(leaf, everywhere), state).replace(
        params=params,
        ema_params=params if config.optim.ema_decay else None,
        reference_params=params if objectives.need_reference(config) else None,
    )

    def beside_its_parameter(leaf, parameter):
        # A frozen parameter's placeholder and Adafactor's rows and columns have other shapes.
        is_moment = getattr(leaf, "shape", None) == parameter.shape
        return sharding.abstract(leaf, parameter.sharding) if is_moment else leaf

    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        beside_its_parameter,
        state.opt_state,
        objectives.trained(config, params),
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )
    state = state.replace(opt_state=opt_state)
    return TrainingSetup(**vars(setup), optimizer=optimizer, abstract_state=state)


def init_state(setup: TrainingSetup) -> TrainState:
    """A fresh state, initialised on the devices that hold it: the same values on any mesh."""
    return lower_init(setup).compile()()


def lower_init(setup: TrainingSetup):
    """The program behind `init_state`, traced and lowered; it takes no arguments."""
    config = setup.config
    model = initialiser(config, setup.model)

    structure = jax.tree.structure(setup.abstract_state)

    def initial_leaves():
        params = nn.meta.unbox(init_params(config, model, setup.spec))
        return jax.tree.leaves(new_state(config, setup.optimizer, params))

    def init():
        return structure.unflatten(with_kept_trace(f"init {setup.describe()}", initial_leaves)())

    # It runs only once, briefly; optimising it would triple its compile time on a CPU.
    on_cpu = setup.mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    with mesh_context(setup):
        return jax.jit(init, out_shardings=setup.state_shardings, compiler_options=options).lower()


def new_state(config: Any, optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """The state of step 0 around `params`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(objectives.trained(config, params)),
        ema_params=jax.tree.map(jnp.copy, params) if config.optim.ema_decay else None,
        skipped_steps=jnp.zeros((), jnp.int32),
        consecutive_skips=jnp.zeros((), jnp.int32),
        reference_params=jax.tree.map(jnp.copy, params)
        if objectives.need_reference(config)
        else None,
    )
