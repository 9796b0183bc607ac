"""The one jitted step that combines the objectives.

The loss is sum over objectives k of weight_k * sum over its terms of scale * loss_sum / count,
with counts over the global batch, whatever the number of devices or accumulation steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from igerg_jax import objectives, optim
from igerg_jax.batch import group_of
from igerg_jax.parallel import sharding
from igerg_jax.setup import base_key, mesh_context
from igerg_jax.training.train_state import TrainingSetup, TrainState


def step_key(config: Any, step: int | jax.Array) -> jax.Array:
    """The key of one step: what training does at random there is folded from it."""
    return jax.random.fold_in(base_key(config), step)


def make_step(setup: TrainingSetup) -> Callable:
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


def compile_step(setup: TrainingSetup):
    """`make_step`, compiled ahead of time for `setup.spec`: it cannot compile again."""
    return lower_step(setup).compile()


def lower_step(setup: TrainingSetup):
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
    for group, members in objectives.by_group(config).items():
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
        config.objectives[name].weight * out[f"loss/{name}"] for name in objectives.active(config)
    )
    return out
