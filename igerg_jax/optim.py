"""Schedules, parameter masks, and the optax chain."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from igerg_jax.constraints import Choice, Range, check_constraints

# Parameters without weight decay, by the last part of their name: biases, norms, and the scalars of
# the contrastive loss. Embedding tables decay, as BART's do.
NO_DECAY = ("bias", "scale", "mean", "variance", "contrastive_bias", "contrastive_log_scale")

SCHEDULES = ("cosine", "inverse_sqrt")


def check(settings: Mapping) -> None:
    """Raises UserError for values that `config.optim` may not have."""
    check_constraints("optim", settings, CONSTRAINTS)


def warmup_steps(settings: Mapping, steps: int) -> int:
    """The warm-up steps of a run of `steps` steps in all.

    With the cosine schedule, a run no longer than `warmup_steps` (a trial) instead warms up for a
    tenth of its steps.
    """
    warmup = settings["warmup_steps"]
    return steps // 10 if settings["schedule"] == "cosine" and warmup >= steps else warmup


def schedule(settings: Mapping, steps: int) -> optax.Schedule:
    """The learning rate by step, in a run of `steps` steps: linear warm-up, then cosine decay to
    the final rate, or fairseq's inverse square root: peak * sqrt(warmup / step)."""
    initial, peak = settings["initial_learning_rate"], settings["peak_learning_rate"]
    warmup = warmup_steps(settings, steps)
    if settings["schedule"] == "cosine":
        final = settings["final_learning_rate"]
        return optax.warmup_cosine_decay_schedule(initial, peak, warmup, steps, final)

    def decay(since_warmup):  # optax has no inverse-square-root schedule
        # join_schedules calls it before the boundary too, and discards the result.
        return peak * (warmup / jnp.maximum(since_warmup + warmup, 1)) ** 0.5

    return optax.join_schedules([optax.linear_schedule(initial, peak, warmup), decay], [warmup])


def decay_mask(params: Any) -> Any:
    """True where weight decay applies; same structure as `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NO_DECAY, params)


def optimizer(
    settings: Mapping, steps: int, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
    """The chain: clip by global norm, optimizer, decoupled weight decay, learning rate.

    Args:
      settings: `config.optim`, which has passed `check`.
      steps: of the run in all.
      frozen: top-level parameter names that are not trained; they get no optimizer state.
    """

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if path[0].key in frozen else "trained", params
        )

    clip = settings["clip_norm"]
    trained = optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        OPTIMIZERS[settings["name"]](settings, schedule(settings, steps)),
    )
    if not frozen:
        return trained
    return optax.multi_transform({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def _with_moments(make: Callable[..., optax.GradientTransformation], *keys: str):
    """An optax optimizer with decoupled weight decay that takes the settings `keys`."""

    def build(settings: Mapping, rate: optax.Schedule) -> optax.GradientTransformation:
        given = {key: settings[key] for key in (*keys, "weight_decay")}
        return make(rate, mask=decay_mask, mu_dtype=settings["first_moment_dtype"], **given)

    return build


def _adafactor(settings: Mapping, rate: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor at the given rate, without momentum; weights decay as AdamW's do.

    optax's own `weight_decay_rate` is not scaled by the learning rate.
    """
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=0.8),
        optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(settings["weight_decay"], decay_mask),
        optax.scale_by_learning_rate(rate),
    )


# optim.name -> what follows clipping: adamw (Loshchilov & Hutter 2019), lion (Chen et al. 2023),
# adafactor (Shazeer & Stern 2018), whose second moment is a row and a column per matrix.
OPTIMIZERS = {
    "adamw": _with_moments(optax.adamw, "b1", "b2", "eps"),
    "lion": _with_moments(optax.lion, "b1", "b2"),
    "adafactor": _adafactor,
}

CONSTRAINTS = (
    Choice("name", tuple(OPTIMIZERS)),
    Choice("first_moment_dtype", ("float32", "bfloat16")),
    Choice("schedule", SCHEDULES),
    Range("peak_learning_rate", at_least=0),
    Range("initial_learning_rate", at_least=0),
    Range("final_learning_rate", at_least=0),
    Range("warmup_steps", at_least=1),
    Range("b1", at_least=0, below=1),
    Range("b2", at_least=0, below=1),
    Range("eps", above=0),
    Range("weight_decay", at_least=0),
    Range("clip_norm", at_least=0),
    Range("ema_decay", at_least=0, below=1),
)
