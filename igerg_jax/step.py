"""Training state, and the one jitted step that combines the objectives.

The loss is sum over objectives k of weight_k * sum over its terms of scale * loss_sum / count,
with counts over the global batch, whatever the number of devices or accumulation steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from igerg_jax import losses, objectives, optim, sharding
from igerg_jax.batch import BatchSpec, SpecialIds, group_of, mixed_groups, synthetic
from igerg_jax.errors import UserError
from igerg_jax.models.igerg import Igerg


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds. `step` counts batches read, skipped ones too."""

    step: jax.Array  # int32 scalar
    params: Any  # float32
    opt_state: Any
    ema_params: Any  # None without a moving average
    skipped_steps: jax.Array  # int32 scalar, of the whole run
    consecutive_skips: jax.Array  # int32 scalar


class Setup(NamedTuple):
    """What every entry point builds from a config before it touches data or devices' memory."""

    config: Any
    model: Igerg
    spec: BatchSpec  # of a training step
    optimizer: optax.GradientTransformation
    mesh: Mesh
    rules: tuple
    abstract_state: TrainState  # jax.ShapeDtypeStruct leaves, with shardings


def build_model(config: Any, vocab_size: int, special: SpecialIds) -> Igerg:
    """The module that `config.model` describes.

    Raises:
      UserError: sizes that do not go together.
    """
    model = config.model
    longest = max(config.data.context_tokens, config.data.response_tokens)
    if longest > model.text.max_positions:
        raise UserError(
            f"model.text.max_positions={model.text.max_positions} is below the {longest} tokens "
            "of data.context_tokens or data.response_tokens; raise the one or lower the other"
        )
    if model.vision.kind == "vit" and config.data.image_size % model.vision.patch_size:
        raise UserError(
            f"data.image_size={config.data.image_size} does not divide into patches of "
            f"model.vision.patch_size={model.vision.patch_size} pixels"
        )
    if (model.vision.kind == "features") != (config.data.feature_dim > 0):
        raise UserError(
            "model.vision.kind='features' and data.feature_dim > 0 go together: set both or none"
        )
    for part in (model.vision, model.text, model.judge):
        if part.heads < 1 or part.width % part.heads:
            raise UserError(f"width={part.width} does not divide into heads={part.heads}")
    return Igerg(
        **model.to_dict(),
        vocab_size=vocab_size,
        max_turns=config.data.context_turns + 1,
        special=special,
    )


def set_up(config: Any, vocab_size: int, special: SpecialIds, devices=None) -> Setup:
    """Model, optimizer, mesh and the abstract state; checks what can be checked without data.

    Args:
      devices: default all of the process's backend.

    Raises:
      UserError: the mesh does not fit the devices, a size does not divide, a name is unknown.
    """
    mesh = sharding.make_mesh(config.mesh, devices)
    train = config.train
    sharding.check_batch(train.batch_size, train.accumulate_steps, mesh, "train.batch_size")
    _check_objectives(config)
    _check_prng(config)
    model = build_model(config, vocab_size, special)
    frozen = ("vision_tower",) if config.model.vision.frozen else ()
    optimizer = optim.optimizer(config.optim, train.steps, frozen)
    spec = BatchSpec.of(config.data, train.batch_size)
    rules = sharding.rules(config)
    try:
        boxed = jax.eval_shape(lambda: _init_params(config, model, spec))
    except ValueError as error:  # a name or size that only the modules know
        raise UserError(str(error)) from error
    shardings = sharding.state_shardings(boxed, mesh, rules)
    params = jax.tree.map(_abstract, nn.meta.unbox(boxed), shardings)
    state = jax.eval_shape(lambda p: new_state(config, optimizer, p), params)
    everywhere = sharding.replicated(mesh)
    opt_state = _place_opt_state(optimizer, state.opt_state, params, everywhere)
    state = state.replace(
        step=_abstract(state.step, everywhere),
        params=params,
        opt_state=opt_state,
        ema_params=params if config.optim.ema_decay else None,
        skipped_steps=_abstract(state.skipped_steps, everywhere),
        consecutive_skips=_abstract(state.consecutive_skips, everywhere),
    )
    return Setup(config, model, spec, optimizer, mesh, rules, state)


def _check_objectives(config: Any) -> None:
    if not active_objectives(config):
        raise UserError("every objective's weight is 0; there is nothing to train")
    choices = {
        "emotional_response.estimator": losses.ESTIMATORS,
        "image_text_contrastive.negatives": objectives.NEGATIVES,
    }
    for key, known in choices.items():
        objective, setting = key.split(".")
        value = config.objectives[objective][setting]
        if value not in known:
            raise UserError(f"objectives.{key} '{value}' is not one of {', '.join(known)}")
    if config.objectives.image_text_contrastive.negatives == "slice" and config.mesh.dcn == -1:
        raise UserError(
            "mesh.dcn=-1: objectives.image_text_contrastive.negatives 'slice' makes the loss "
            "depend on the number of slices; give that number"
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
        return _abstract(leaf, parameter.sharding if beside else everywhere)

    return optax.tree_utils.tree_map_params(
        optimizer,
        place,
        opt_state,
        params,
        transform_non_params=lambda leaf: _abstract(leaf, everywhere),
        is_leaf=masked,
    )


def active_objectives(config: Any) -> list[str]:
    """Names of the objectives with a weight, in `objectives.OBJECTIVES`'s order."""
    return [name for name in objectives.OBJECTIVES if config.objectives[name].weight]


def objectives_by_group(config: Any) -> dict[str, list[str]]:
    """{mixture whose batch they share, "" = the main one: active objectives}."""
    mixtures = config.data.mixtures
    group_by = {name: g for g in mixed_groups(config.data) for name in mixtures[g].objectives}
    groups: dict[str, list[str]] = {}
    for name in active_objectives(config):
        groups.setdefault(group_by.get(name, ""), []).append(name)
    return groups


@contextlib.contextmanager
def mesh_context(setup: Setup):
    """What tracing needs: the mesh, and the rules behind logical axis names."""
    with jax.set_mesh(setup.mesh), nn.logical_axis_rules(setup.rules):
        yield


def init_state(setup: Setup) -> TrainState:
    """A fresh state, made on the devices where it lives: the same values on any mesh."""
    return lower_init(setup).compile()()


def lower_init(setup: Setup):
    """What makes `init_state`'s result, traced and lowered: it takes nothing."""
    config, model = setup.config, setup.model

    def init():
        params = nn.meta.unbox(_init_params(config, model, setup.spec))
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


def base_key(config: Any) -> jax.Array:
    """The key that everything random in a run is folded from."""
    return jax.random.key(config.seed, impl=config.train.prng)


def step_key(config: Any, step: int | jax.Array) -> jax.Array:
    """The key of one step: what training does at random there is folded from it."""
    return jax.random.fold_in(base_key(config), step)


def make_step(setup: Setup) -> Callable:
    """The jitted step: (state, batch) -> (state, metrics), the state donated.

    `metrics` are float32 scalars: loss/total, loss/<objective> and its terms,
    metric/<objective>/<name>, grad_norm, learning_rate, skipped (0 or 1), consecutive_skips.
    A step whose loss or gradient is not finite changes nothing but the counters.
    """
    config, model, optimizer = setup.config, setup.model, setup.optimizer
    learning_rate = optim.schedule(config.optim, config.train.steps)

    def step(state: TrainState, batch: dict[str, jax.Array]):
        key = step_key(config, state.step)
        grads, metrics = _gradients(config, model, state.params, batch, key, state.step)
        norm = optax.tree_utils.tree_norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = optax.incremental_update(params, ema_params, 1 - config.optim.ema_decay)
        good = jnp.isfinite(metrics["loss/total"]) & jnp.isfinite(norm)
        bad = (~good).astype(jnp.int32)
        kept = jax.tree.map(
            lambda new, old: jnp.where(good, new, old),
            (params, opt_state, ema_params),
            (state.params, state.opt_state, state.ema_params),
        )
        consecutive = (state.consecutive_skips + bad) * bad
        # The optimizer's own count stands still where a step is skipped.
        rate = learning_rate(state.step - state.skipped_steps)
        state = TrainState(
            step=state.step + 1,
            params=kept[0],
            opt_state=kept[1],
            ema_params=kept[2],
            skipped_steps=state.skipped_steps + bad,
            consecutive_skips=consecutive,
        )
        metrics |= {
            "grad_norm": norm,
            "learning_rate": jnp.asarray(rate, jnp.float32),
            "skipped": bad.astype(jnp.float32),
            "consecutive_skips": consecutive.astype(jnp.float32),
        }
        return state, metrics

    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_state)
    return jax.jit(
        step,
        in_shardings=(shardings, sharding.batch_sharding(setup.mesh)),
        out_shardings=(shardings, sharding.replicated(setup.mesh)),
        donate_argnums=0,
    )


def compile_step(setup: Setup):
    """`make_step`, compiled ahead of time for `setup.spec`: it cannot compile again."""
    return lower_step(setup).compile()


def lower_step(setup: Setup):
    """`make_step`, traced and lowered for `setup.spec` and `setup.mesh`."""
    placed = sharding.batch_sharding(setup.mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=placed)
        for name, (shape, dtype) in setup.spec.shapes().items()
    }
    with mesh_context(setup):
        return make_step(setup).lower(setup.abstract_state, batch)


def objective_sums(config, model, params, batch, key, step) -> tuple[dict, dict]:
    """Every active objective's terms and metrics, keyed (objective, name).

    Objectives of one mixture (`config.data.mixtures`) share a batch, and what is made of it.
    An objective's randomness depends on its place in the table of all objectives, so that
    switching another one off does not change it; but for the dropout in what they share.
    """
    terms, metrics = {}, {}
    for group, members in objectives_by_group(config).items():
        found = _group_sums(config, model, params, group_of(batch, group), key, step, members)
        terms, metrics = terms | found[0], metrics | found[1]
    return terms, metrics


def group_readings(config, model, batch, key, names) -> dict[str, objectives.Reading]:
    """What the encoder reads for some objectives of one batch: {objective: its reading}.

    Args:
      batch: of those objectives' group, `objectives.numbered`.
      key: of the step (`step_key`).
    """
    return {
        name: objectives.READINGS[name](
            model, batch, _objective_key(key, name), config.objectives[name].to_dict()
        )
        for name in names
        if name in objectives.READINGS
    }


def _objective_key(key, name: str) -> jax.Array:
    return jax.random.fold_in(key, list(objectives.OBJECTIVES).index(name))


def _group_sums(config, model, params, batch, key, step, names) -> tuple[dict, dict]:
    batch = objectives.numbered(batch)
    readings = group_readings(config, model, batch, key, names)
    shared = jax.random.fold_in(key, len(objectives.OBJECTIVES))
    batch = objectives.annotate(model, params, batch, shared, readings)
    terms, metrics = {}, {}
    for name in names:
        settings, rng = config.objectives[name].to_dict(), _objective_key(key, name)
        own = objectives.OBJECTIVES[name](model, params, batch, rng, settings, step)
        terms |= {(name, part): term for part, term in own[0].items()}
        metrics |= {(name, part): value for part, value in own[1].items()}
    return terms, metrics


def _gradients(config, model, params, batch, key, step) -> tuple[Any, dict[str, jax.Array]]:
    """The gradient of the loss over the whole batch, and the metrics."""
    pieces = config.train.accumulate_steps
    batch = dict(batch, row=jnp.arange(batch["image_mask"].shape[0]))

    def total(params, batch, counts):
        terms, metrics = objective_sums(config, model, params, batch, key, step)
        counts = counts or {name: term.count for name, term in terms.items()}
        loss = sum(
            config.objectives[name[0]].weight * _mean(term, counts[name])
            for name, term in terms.items()
        )
        return loss, (terms, metrics)

    if pieces == 1:
        grads, (terms, metrics) = jax.grad(total, has_aux=True)(params, batch, None)
        return grads, _readable(config, terms, metrics)

    # Examples i, i + pieces, ... go together: each device then cuts up its own rows.
    micro = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), batch)

    def count(sums, batch):
        terms, _ = objective_sums(config, model, params, batch, key, step)
        counts = {name: term.count for name, term in terms.items()}
        return jax.tree.map(jnp.add, sums, counts), None

    def accumulate(sums, batch):
        grads, (terms, metrics) = jax.grad(total, has_aux=True)(params, batch, counts)
        kept = {name: term._replace(scale=0.0) for name, term in terms.items()}
        scales = {name: jnp.float32(term.scale) for name, term in terms.items()}
        return jax.tree.map(jnp.add, sums, (grads, kept, metrics)), scales

    first = jax.tree.map(lambda x: x[0], micro)
    shapes = jax.eval_shape(lambda: objective_sums(config, model, params, first, key, step))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    # Means need the whole batch's counts first. They do not depend on the model's output, so
    # the compiler drops everything else from this loop.
    no_counts = {name: term.count for name, term in zeros[0].items()}
    counts, _ = jax.lax.scan(count, no_counts, micro)
    start = (jax.tree.map(jnp.zeros_like, params), _no_scales(zeros[0]), zeros[1])
    (grads, terms, metrics), scales = jax.lax.scan(accumulate, start, micro)
    terms = {name: term._replace(scale=scales[name][0]) for name, term in terms.items()}
    return grads, _readable(config, terms, metrics)


def _no_scales(terms: dict) -> dict:
    return {name: term._replace(scale=0.0) for name, term in terms.items()}


def _mean(term: objectives.Term, count: jax.Array) -> jax.Array:
    return term.scale * term.loss_sum / jnp.maximum(count, 1.0)


def _readable(config, terms: dict, metrics: dict) -> dict[str, jax.Array]:
    """Scalars by name: loss/total, loss/<objective>[/<term>], metric/<objective>/<name>."""
    out = {}
    for (name, part), term in terms.items():
        out[f"loss/{name}"] = out.get(f"loss/{name}", 0.0) + _mean(term, term.count)
        if part:
            out[f"loss/{name}/{part}"] = term.loss_sum / jnp.maximum(term.count, 1.0)
    for (name, part), (total, count) in metrics.items():
        out[f"metric/{name}/{part}"] = total / jnp.maximum(count, 1.0)
    out["loss/total"] = sum(
        config.objectives[name].weight * out[f"loss/{name}"] for name in active_objectives(config)
    )
    return out


def _init_params(config: Any, model: Igerg, spec: BatchSpec) -> Any:
    """Boxed parameters: arrays with their logical axis names."""
    # One row is enough: no parameter's shape depends on B.
    batch = synthetic(
        BatchSpec(**{**vars(spec), "batch_size": 1}), model.special, model.vocab_size, seed=0
    )
    # Not of `train.prng`: the first parameters must not depend on the mesh.
    return model.init(jax.random.key(config.seed, impl="threefry2x32"), batch)["params"]


def _abstract(leaf: Any, placed: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)
