"""Decoding strategies: how the next token of a response is chosen.

A strategy is a frozen dataclass whose fields are the keys of `config.generate` that it reads, and
a line in `STRATEGIES`. `check()` raises UserError for numbers out of range. With

    choose(log_p_BxV, keys_B) -> int32 [B]

it chooses one token per row and step, out of log-probabilities float32 [B, V] (-inf = not allowed)
and with each row's own key for this step; `search.decode_rows` does the rest. `Sample` may decode
several candidates per row, of which `search.best_candidates` keeps one. `Beam` keeps several
responses per row, and has its own loop.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from igerg_jax.constraints import Range, check_choice, check_constraints
from igerg_jax.models.arithmetic import argmax
from igerg_jax.models.partitioning import top_k
from igerg_jax.models.settings import select


class TokenStrategy(Protocol):
    """What `search.decode_rows` asks of a strategy."""

    def choose(self, log_p_BxV: jax.Array, keys_B: jax.Array) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The likeliest token at each step."""

    def check(self) -> None:
        """There are no settings to check."""

    def choose(self, log_p_BxV: jax.Array, keys_B: jax.Array) -> jax.Array:
        return argmax(log_p_BxV)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A token at random, after temperature, then top-k, then top-p.

    Of several candidates, the one with the highest log p / length ** length_penalty is kept
    (sample-and-rank, Adiwardana et al. 2020, https://arxiv.org/abs/2001.09977); one that was cut at
    the maximum length, only if all of them were.
    """

    temperature: float
    top_k: int  # only the k likeliest; 0 = all
    top_p: float  # only the likeliest that together reach p (Holtzman et al. 2020); 1 = all
    candidates: int  # responses per row
    length_penalty: float  # of the ranking, EOS counted

    def check(self) -> None:
        ranges = (
            Range("candidates", at_least=1),
            Range("temperature", above=0),
            Range("top_k", at_least=0),
            Range("top_p", above=0, at_most=1),
            Range("length_penalty"),
        )
        check_constraints("generate", vars(self), ranges)

    def choose(self, log_p_BxV: jax.Array, keys_B: jax.Array) -> jax.Array:
        logits_BxV = self.filtered(log_p_BxV)
        gumbel = functools.partial(jax.random.gumbel, shape=logits_BxV.shape[1:])
        return argmax(jax.vmap(gumbel)(keys_B) + logits_BxV)  # as `jax.random.categorical` draws

    def filtered(self, log_p_BxV: jax.Array) -> jax.Array:
        """The logits float32 [B, V] that are sampled from: -inf where a filter excludes a token."""
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

    def check(self) -> None:
        ranges = Range("beams", at_least=1), Range("length_penalty")
        check_constraints("generate", vars(self), ranges)


# generate.strategy -> its class
STRATEGIES: dict[str, type] = {"greedy": Greedy, "sample": Sample, "beam": Beam}

Strategy = TokenStrategy | Beam


def strategy(config: Any) -> Strategy:
    """The strategy that `config.generate` describes.

    Raises:
      UserError: unknown strategy, or a number out of range; the message names the key.
    """
    settings = config.generate
    check_choice("generate.strategy", settings.strategy, STRATEGIES)
    chosen = select(STRATEGIES[settings.strategy], settings)
    chosen.check()
    return chosen


def _at_least(logits_BxV: jax.Array, least_Bx1: jax.Array) -> jax.Array:
    return jnp.where(logits_BxV >= least_Bx1, logits_BxV, -jnp.inf)
