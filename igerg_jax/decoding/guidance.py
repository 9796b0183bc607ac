"""Classifier-free guidance: decoding away from responses without the face and its emotion.

Letters as in `igerg_jax.decoding.search`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from igerg_jax.constraints import Range, check_constraints
from igerg_jax.decoding.stream import Source, Started, Stream, start
from igerg_jax.models.igerg import Igerg
from igerg_jax.models.layers import DecodingStep
from igerg_jax.models.settings import select

# Of the guidance in a config, on a command line and in a request.
RANGE = Range("guidance", at_least=0)
# Added to log p of tokens under the floor. Finite, so that if a rule excludes all tokens above it,
# as at the last position, the likeliest of the others is still chosen.
UNDER_THE_FLOOR = -1e3


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (https://arxiv.org/abs/2306.17806): the keys of `config.generate`.

    Tokens are chosen by log p + guidance * (log p - log q), normalised, where p is the model's
    probability given the response's face and emotion, and q the one without them.
    """

    guidance: float | jax.Array  # 0 = none: by log p; a scalar array may differ from call to call
    guidance_floor: float  # only tokens with p >= floor * max p (arXiv:2210.15097); 0 = all

    @classmethod
    def of(cls, config: Any) -> Guidance:
        """The guidance that `config.generate` sets.

        Raises:
          UserError: a number out of range; the message names the key.
        """
        chosen = select(cls, config.generate)
        floor = Range("guidance_floor", at_least=0, at_most=1)
        check_constraints("generate", vars(chosen), (RANGE, floor))
        return chosen

    @property
    def needs_both(self) -> bool:
        """Whether q is needed: not where the guidance is known to be 0."""
        return isinstance(self.guidance, jax.Array) or self.guidance > 0

    def combine(self, log_p_xV: jax.Array, log_q_xV: jax.Array) -> jax.Array:
        """The log-probabilities float32 [..., V] that tokens are chosen by."""
        guided_xV = log_p_xV + self.guidance * (log_p_xV - log_q_xV)
        if self.guidance_floor:
            least_x1 = log_p_xV.max(-1, keepdims=True) + jnp.log(self.guidance_floor)
            guided_xV = jnp.where(log_p_xV >= least_x1, guided_xV, log_p_xV + UNDER_THE_FLOOR)
            if isinstance(self.guidance, jax.Array):  # no guidance, no floor
                guided_xV = jnp.where(self.guidance > 0, guided_xV, log_p_xV)
        return jax.nn.log_softmax(guided_xV)


@dataclasses.dataclass(frozen=True)
class GuidedStream:
    """Two streams that decode the same tokens: with the response's face and emotion, and without.

    Its hidden states and caches are pairs.
    """

    streams: tuple[Stream, Stream]
    guidance: Guidance

    def step(
        self, token_BxK: jax.Array, step: DecodingStep, past: tuple[Any, Any]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, Any]]:
        """As `Stream.step`."""
        pairs = [s.step(token_BxK, step, p) for s, p in zip(self.streams, past, strict=True)]
        hidden, past = zip(*pairs, strict=True)
        return hidden, past

    def log_probabilities(self, hidden_xD: tuple[jax.Array, jax.Array]) -> jax.Array:
        """float32 [..., V] of the next token, guided."""
        both = [s.log_probabilities(h) for s, h in zip(self.streams, hidden_xD, strict=True)]
        return self.guidance.combine(*both)


def start_guided(
    model: Igerg, params: Any, sources: tuple[Source, Source], guidance: Guidance, max_tokens: int
) -> Started:
    """A guided stream over a pair of sources: with the response's face and emotion, and without."""
    started = [start(model, params, source, max_tokens) for source in sources]
    streams, hidden, past = zip(*started, strict=True)
    return Started(GuidedStream(streams, guidance), hidden, past)
