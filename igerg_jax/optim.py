"""Schedules, parameter masks, and the optax chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from igerg_jax.errors import UserError

# Parameters without weight decay, by the last part of their name: norms' and biases', and the
# scalars of the contrastive loss. Embedding tables decay, as BART's do.
NO_DECAY = ("bias", "scale", "mean", "variance", "contrastive_bias", "contrastive_log_scale")

MOMENT_DTYPES = ("float32", "bfloat16")
SCHEDULES = ("cosine", "inverse_sqrt")


def schedule(settings: Mapping, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then cosine or inverse square root.

    Args:
      settings: `config.optim`.
      steps: of the whole run; where cosine ends.

    Raises:
      UserError: the schedule's name is unknown, or the warm-up does not fit.
    """
    peak, warmup = settings["peak_learning_rate"], settings["warmup_steps"]
    start = settings["initial_learning_rate"]
    if warmup < 1:
        raise UserError(f"optim.warmup_steps is {warmup}; it must be at least 1")
    if settings["schedule"] == "cosine":
        if warmup >= steps:
            raise UserError(
                f"optim.warmup_steps ({warmup}) must be below train.steps ({steps}); "
                "lower the one or raise the other"
            )
        end = settings["final_learning_rate"]
        return optax.warmup_cosine_decay_schedule(start, peak, warmup, steps, end)
    if settings["schedule"] == "inverse_sqrt":
        # fairseq's: rises linearly to the peak, then peak * sqrt(warmup / step).
        return optax.join_schedules(
            [
                optax.linear_schedule(start, peak, warmup),
                # Also called before the boundary, with a result that is not used.
                lambda step: peak * (warmup / jnp.maximum(step + warmup, 1)) ** 0.5,
            ],
            [warmup],
        )
    names = ", ".join(SCHEDULES)
    raise UserError(f"optim.schedule '{settings['schedule']}' is not one of {names}")


def decay_mask(params: Any) -> Any:
    """True where weight decay applies; same structure as `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NO_DECAY, params)


def labels(params: Any, frozen: tuple[str, ...]) -> Any:
    """ "frozen" for the parameters under a top-level name in `frozen`, else "trained"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "frozen" if path[0].key in frozen else "trained", params
    )


def optimizer(
    settings: Mapping, steps: int, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
    """The chain: clip by global norm, optimizer, decoupled weight decay, learning rate.

    Args:
      settings: `config.optim`.
      steps: of the whole run.
      frozen: top-level parameter names that are not trained; they get no optimizer state.

    Raises:
      UserError: an unknown name in `settings`.
    """
    _check_name("name", settings["name"], OPTIMIZERS)
    _check_name("first_moment_dtype", settings["first_moment_dtype"], MOMENT_DTYPES)
    clip = settings["clip_norm"]
    trained = optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        OPTIMIZERS[settings["name"]](settings, schedule(settings, steps)),
    )
    if not frozen:
        return trained
    return optax.multi_transform(
        {"trained": trained, "frozen": optax.set_to_zero()}, lambda p: labels(p, frozen)
    )


def _with_moments(make: Callable[..., optax.GradientTransformation], *keys: str):
    """An optax optimizer with decoupled decay, of the settings `keys`."""

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
# adafactor (Shazeer & Stern 2018), whose second moment takes a row and a column a matrix.
OPTIMIZERS = {
    "adamw": _with_moments(optax.adamw, "b1", "b2", "eps"),
    "lion": _with_moments(optax.lion, "b1", "b2"),
    "adafactor": _adafactor,
}


def _check_name(key: str, name: str, known) -> None:
    if name not in known:
        raise UserError(f"optim.{key} '{name}' is not one of {', '.join(known)}")
