"""The jitted training step: the gradient of the objectives' weighted loss, and the update.

`igerg_jax.objectives.base` defines the loss. Its counts are over the global batch, whatever the
number of devices or accumulation steps.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from igerg_jax import objectives, optim
from igerg_jax.objectives import combination
from igerg_jax.objectives.base import Term
from igerg_jax.parallel import sharding
from igerg_jax.setup import base_key, mesh_context, with_kept_trace
from igerg_jax.training.train_state import TrainingSetup, TrainState


def step_key(config: Any, step: int | jax.Array) -> jax.Array:
    """The key of one step, from which all its random keys are derived."""
    return jax.random.fold_in(base_key(config), step)


def make_step(setup: TrainingSetup) -> Callable:
    """The jitted step: (state, batch) -> (state, metrics). It donates the state.

    `metrics` are float32 scalars: loss/total, loss/<objective> and its terms,
    metric/<objective>/<name>, grad_norm, learning_rate, skipped (0 or 1), consecutive_skips.
    A step whose loss or gradient is not finite changes nothing but the counters.
    """
    config, model, optimizer = setup.config, setup.model, setup.optimizer
    trained = functools.partial(objectives.trained, config)
    learning_rate = optim.schedule(config.optim, config.train.steps)

    def step(state: TrainState, batch: dict[str, jax.Array]):
        key = step_key(config, state.step)
        grads, metrics = loss_gradient(
            config, model, state.params, batch, key, state.step, state.reference_params
        )
        norm = optax.tree_utils.tree_norm(grads)
        before = trained(state.params)
        updates, opt_state = optimizer.update(trained(grads), state.opt_state, before)
        after, ema_params = optax.apply_updates(before, updates), state.ema_params
        if ema_params is not None:
            new_part = 1 - config.optim.ema_decay
            average = optax.incremental_update(after, trained(ema_params), new_part)
            ema_params = ema_params | average
        params = state.params | after
        updated = state.replace(params=params, opt_state=opt_state, ema_params=ema_params)
        good = jnp.isfinite(metrics["loss/total"]) & jnp.isfinite(norm)
        bad = (~good).astype(jnp.int32)
        # As the optimizer's own count, without skipped steps.
        rate = learning_rate(state.step - state.skipped_steps)
        consecutive = (state.consecutive_skips + bad) * bad
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, state).replace(
            step=state.step + 1,
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

    return jax.jit(
        _kept(setup, step),
        in_shardings=(setup.state_shardings, sharding.batch_sharding(setup.mesh)),
        out_shardings=(setup.state_shardings, sharding.replicated(setup.mesh)),
        donate_argnums=0,
    )


def _kept(setup: TrainingSetup, step: Callable) -> Callable:
    """`make_step`'s step, with its trace kept (`setup.with_kept_trace`)."""

    @functools.wraps(step)  # the program has its name
    def kept(state, batch):
        leaves, structure = jax.tree.flatten(state)

        def step_of_leaves(leaves, batch):
            state, metrics = step(structure.unflatten(leaves), batch)
            return jax.tree.leaves(state), metrics

        call = with_kept_trace(f"step {setup.describe()}", step_of_leaves)
        leaves, metrics = call(leaves, batch)
        return structure.unflatten(leaves), metrics

    return kept


def lower_step(setup: TrainingSetup):
    """`make_step`, traced and lowered for `setup.spec` and `setup.mesh`. What its `compile()`
    returns never recompiles: it refuses other shapes."""
    with mesh_context(setup):
        return make_step(setup).lower(setup.abstract_state, setup.abstract_batch)


def loss_gradient(
    config: Any,
    model: Any,
    params: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    step: jax.Array | int,
    reference: Any = None,
) -> tuple[Any, dict[str, jax.Array]]:
    """The gradient of the loss over a global batch, and its metrics (see `make_step`).

    With `train.accumulate_steps` above 1, the batch is split into that many micro-batches.

    Args:
      key: of the step (`step_key`).
      step: scalar; objectives whose settings change over time read it.
      reference: the parameters as training started, for objectives that read them.
    """
    parts = config.train.accumulate_steps
    rows_B = jnp.arange(batch["image_mask"].shape[0])

    def sums(params, batch, rows_B):
        return combination.sums(config, model, params, batch, key, step, rows_B, reference)

    def loss(params, batch, rows_B, counts=None):
        terms, metrics = sums(params, batch, rows_B)
        counts = counts or _counts(terms)
        total = sum(
            config.objectives[name[0]].weight * _mean(term, counts[name])
            for name, term in terms.items()
        )
        return total, (terms, metrics)

    gradient = jax.grad(loss, has_aux=True)
    if parts == 1:
        grads, (terms, metrics) = gradient(params, batch, rows_B)
    else:
        inputs = (dict(batch), rows_B)
        grads, terms, metrics = _accumulated(gradient, sums, params, inputs, parts)
    return grads, _named(config, terms, metrics)


def _accumulated(
    gradient: Callable, sums: Callable, params: Any, inputs: tuple[dict, jax.Array], parts: int
) -> tuple[Any, combination.Terms, combination.Metrics]:
    """(gradient, terms, metrics), accumulated over `parts` micro-batches.

    Args:
      gradient: (params, batch, rows_B, counts) -> (gradient, (terms, metrics)).
      sums: (params, batch, rows_B) -> (terms, metrics).
      inputs: the global batch, and its rows_B.
    """
    # A micro-batch is rows i, i + parts, ..., so that each device splits its own rows. Contiguous
    # micro-batches would move rows between devices (https://github.com/openxla/xla/issues/13306).
    micro = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), inputs)
    shapes = jax.eval_shape(sums, params, *jax.tree.map(lambda x: x[0], micro))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)

    def count(counts, part):
        return jax.tree.map(jnp.add, counts, _counts(sums(params, *part)[0])), None

    # Means need the global batch's counts first. Those do not depend on the model's output, so
    # the compiler removes everything else from this loop.
    counts, _ = jax.lax.scan(count, _counts(zeros[0]), micro)

    def accumulate(totals, part):
        grads, (terms, metrics) = gradient(params, *part, counts)
        scales = {name: jnp.float32(term.scale) for name, term in terms.items()}
        return jax.tree.map(jnp.add, totals, (grads, _unscaled(terms), metrics)), scales

    start = (jax.tree.map(jnp.zeros_like, params), _unscaled(zeros[0]), zeros[1])
    (grads, terms, metrics), scales = jax.lax.scan(accumulate, start, micro)
    terms = {name: term._replace(scale=scales[name][0]) for name, term in terms.items()}
    return grads, terms, metrics


def _counts(terms: combination.Terms) -> dict[tuple[str, str], jax.Array]:
    return {name: term.count for name, term in terms.items()}


def _unscaled(terms: combination.Terms) -> combination.Terms:
    """Terms that can be added up over micro-batches: a scale is the same in each, not a sum."""
    return {name: term._replace(scale=0.0) for name, term in terms.items()}


def _mean(term: Term, count: jax.Array) -> jax.Array:
    return term.scale * term.loss_sum / jnp.maximum(count, 1.0)


def _named(
    config: Any, terms: combination.Terms, metrics: combination.Metrics
) -> dict[str, jax.Array]:
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
