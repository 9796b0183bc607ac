"""Constraints on generated tokens, whatever strategy chooses them.

Letters as in `igerg_jax.decoding.search`; here also G = places where an n-gram can start.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igerg_jax.batch import SpecialIds
from igerg_jax.constraints import Range, check_constraints
from igerg_jax.errors import UserError
from igerg_jax.models.settings import select


@dataclasses.dataclass(frozen=True)
class Limits:
    """The keys of `config.generate` that hold for every strategy."""

    max_tokens: int  # EOS included
    no_repeat_ngram: int  # no run of this many tokens occurs twice; 0 = off

    @classmethod
    def of(cls, config: Any) -> Limits:
        """The limits that `config.generate` sets.

        Raises:
          UserError: a number out of range; the message names the key.
        """
        limits = select(cls, config.generate)
        longest = config.model.text.max_positions
        ranges = Range("max_tokens", at_least=1), Range("no_repeat_ngram", at_least=0)
        check_constraints("generate", vars(limits), ranges)
        if limits.max_tokens > longest:
            raise UserError(
                f"generate.max_tokens={limits.max_tokens} must be at most "
                f"model.text.max_positions={longest}"
            )
        return limits


def allowed(
    log_p_xV: jax.Array,
    tokens_xT: jax.Array,
    position: jax.Array,
    special: SpecialIds,
    limits: Limits,
) -> jax.Array:
    """`log_p` float32 [..., V], with -inf at ids that may not be chosen at `position`.

    Never chosen are PAD, BOS, UNK, MASK and the start token, and what would repeat an n-gram; at
    the last position nothing but EOS is allowed. `tokens` int32 [..., T] are the responses so
    far, of which only what is before `position` counts.
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
    """bool [..., V]: ids that would end an n-gram that the response holds already."""
    n, length = limits.no_repeat_ngram, limits.max_tokens
    if n > length:
        return jnp.zeros((*tokens_xT.shape[:-1], vocabulary), bool)
    starts = jnp.arange(length - n + 1)
    same_xG = jnp.broadcast_to(starts + n <= position, (*tokens_xT.shape[:-1], len(starts)))
    for i in range(n - 1):
        # With fewer than n tokens so far, `same` is all False, whatever is read here.
        last_x1 = jnp.take(tokens_xT, jnp.maximum(position - n + 1 + i, 0)[None], axis=-1)
        same_xG = same_xG & (tokens_xT[..., i : i + len(starts)] == last_x1)
    ends_xG = tokens_xT[..., n - 1 :]
    once_xGxV = jax.nn.one_hot(ends_xG, vocabulary, dtype=bool)
    return (same_xG[..., None] & once_xGxV).any(-2)
