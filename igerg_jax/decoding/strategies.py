"""How the next token of a response is chosen: strategies, and what none of them may choose.

Letters as in `igerg_jax.decoding.search`; here also G = places where an n-gram can start.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igerg_jax.batch import SpecialIds
from igerg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The likeliest token each time."""

    def choose(self, log_p_BxV: jax.Array, keys_B: jax.Array) -> jax.Array:
        """int32 [B] out of log-probabilities float32 [B, V]; -inf = not allowed."""
        return log_p_BxV.argmax(-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A token at random, after temperature, then top-k, then top-p."""

    temperature: float
    top_k: int  # only the k likeliest; 0 = all
    top_p: float  # only the likeliest that together reach p (Holtzman et al. 2020); 1 = all

    def choose(self, log_p_BxV: jax.Array, keys_B: jax.Array) -> jax.Array:
        """int32 [B] out of log-probabilities float32 [B, V]; -inf = not allowed."""
        logits_BxV = self.filtered(log_p_BxV)
        return jax.vmap(jax.random.categorical)(keys_B, logits_BxV).astype(jnp.int32)

    def filtered(self, log_p_BxV: jax.Array) -> jax.Array:
        """The logits float32 [B, V] that are drawn from: -inf where a filter says no."""
        logits_BxV = log_p_BxV / self.temperature
        if self.top_k:
            k = min(self.top_k, logits_BxV.shape[-1])
            logits_BxV = _at_least(logits_BxV, top_k(logits_BxV, k)[0][:, -1:])
        if self.top_p < 1:
            sorted_BxV = jnp.sort(logits_BxV, axis=-1, descending=True)
            p_BxV = jax.nn.softmax(sorted_BxV)
            # The likeliest token has 0 before it, so one is always kept.
            kept_BxV = jnp.cumsum(p_BxV, axis=-1) - p_BxV < self.top_p
            least_Bx1 = jnp.where(kept_BxV, sorted_BxV, jnp.inf).min(-1, keepdims=True)
            logits_BxV = _at_least(logits_BxV, least_Bx1)
        return logits_BxV


@dataclasses.dataclass(frozen=True)
class Beam:
    """Beam search. A hypothesis's score is log p / length ** length_penalty, EOS counted."""

    beams: int
    length_penalty: float


Strategy = Greedy | Sample | Beam


@dataclasses.dataclass(frozen=True)
class Limits:
    """What holds for a response whatever chooses it."""

    max_tokens: int  # EOS counted
    no_repeat_ngram: int  # no run of this many tokens comes twice; 0 = no such rule


def strategy(config: Any) -> Strategy:
    """The strategy that `config.generate` describes.

    Raises:
      UserError: unknown strategy, or a number out of range; the message names the key.
    """
    settings = config.generate
    if settings.strategy == "greedy":
        return Greedy()
    if settings.strategy == "sample":
        if settings.temperature <= 0 or settings.top_k < 0 or not 0 < settings.top_p <= 1:
            raise UserError(
                f"generate: temperature={settings.temperature} must be above 0, "
                f"top_k={settings.top_k} at least 0 and top_p={settings.top_p} in (0, 1]"
            )
        return Sample(settings.temperature, settings.top_k, settings.top_p)
    if settings.strategy == "beam":
        if settings.beams < 1:
            raise UserError(f"generate.beams={settings.beams} must be at least 1")
        return Beam(settings.beams, settings.length_penalty)
    raise UserError(
        f"generate.strategy='{settings.strategy}' is unknown; there are: greedy, sample, beam"
    )


def limits(config: Any) -> Limits:
    """The limits that `config.generate` sets.

    Raises:
      UserError: a number out of range; the message names the key.
    """
    settings = config.generate
    longest = config.model.text.max_positions
    if not 1 <= settings.max_tokens <= longest:
        raise UserError(
            f"generate.max_tokens={settings.max_tokens} must be between 1 and "
            f"model.text.max_positions={longest}"
        )
    if settings.no_repeat_ngram < 0:
        raise UserError(f"generate.no_repeat_ngram={settings.no_repeat_ngram} must be at least 0")
    return Limits(settings.max_tokens, settings.no_repeat_ngram)


def allowed(
    log_p_xV: jax.Array,
    tokens_xT: jax.Array,
    position: jax.Array,
    special: SpecialIds,
    limits: Limits,
) -> jax.Array:
    """`log_p` float32 [..., V], with -inf at ids that may not be chosen at `position`.

    `tokens` int32 [..., T] are the responses so far; what is not before `position` is not read.
    """
    ids_V = np.arange(log_p_xV.shape[-1])
    roles = (special.pad, special.bos, special.unk, special.mask, special.decoder_start)
    word_V = ~np.isin(ids_V, roles) | (ids_V == special.eos)  # EOS may be the start token too
    allowed_V = jnp.where(position == limits.max_tokens - 1, ids_V == special.eos, word_V)
    log_p_xV = jnp.where(jnp.broadcast_to(allowed_V, log_p_xV.shape), log_p_xV, -jnp.inf)
    if not limits.no_repeat_ngram:
        return log_p_xV
    return jnp.where(_repeats(tokens_xT, position, limits, log_p_xV.shape[-1]), -jnp.inf, log_p_xV)


def _repeats(tokens_xT: jax.Array, position: jax.Array, limits: Limits, vocabulary: int):
    """bool [..., V]: ids that would end an n-gram that a response holds already."""
    n, length = limits.no_repeat_ngram, limits.max_tokens
    if n > length:
        return jnp.zeros((*tokens_xT.shape[:-1], vocabulary), bool)
    starts = jnp.arange(length - n + 1)
    same_xG = jnp.broadcast_to(starts + n <= position, (*tokens_xT.shape[:-1], len(starts)))
    for i in range(n - 1):
        # Where fewer than n tokens stand, no n-gram is whole, and what is read does not matter.
        last_x1 = jnp.take(tokens_xT, jnp.maximum(position - n + 1 + i, 0)[None], axis=-1)
        same_xG = same_xG & (tokens_xT[..., i : i + len(starts)] == last_x1)
    ends_xG = tokens_xT[..., n - 1 :]
    once_xGxV = jax.nn.one_hot(ends_xG, vocabulary, dtype=bool)
    return (same_xG[..., None] & once_xGxV).any(-2)


def top_k(x_BxM: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`lax.top_k` of float32 [B, ..., M], for each device's own rows.

    The partitioner would gather every row on every device: for beams and a vocabulary, gigabytes
    a step.
    """

    def top(x):
        return jax.lax.top_k(x, k)

    if jax.sharding.get_abstract_mesh().empty:
        return top(x_BxM)
    rows = nn.logical_to_mesh_axes(("batch",))
    return jax.shard_map(top, in_specs=rows, out_specs=rows)(x_BxM)


def _at_least(logits_BxV: jax.Array, least_Bx1: jax.Array) -> jax.Array:
    return jnp.where(logits_BxV >= least_Bx1, logits_BxV, -jnp.inf)
