"""A decoder stream: the response decoder over one encoder output, token by token.

The search loops know a stream by its two methods alone, and carry hidden states and caches as
opaque pytrees: one array or cache of a `Stream`, a pair of them of a `GuidedStream`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igerg_jax.errors import UserError
from igerg_jax.models.igerg import Encoded, Igerg
from igerg_jax.models.layers import DecoderCache, KeyValue
from igerg_jax.models.settings import select

# Added to log p of tokens under the floor. Finite, so that where a rule excludes all tokens above
# it, as at the last position, the likeliest of the others is still chosen.
UNDER_THE_FLOOR = -1e3


class Source(NamedTuple):
    """What a stream decodes from: an encoder output, and the emotion that the decoder is told."""

    encoded: Encoded
    target_emotion_BxC: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Stream:
    """What stays the same from step to step. Made by `start`."""

    model: Igerg
    params: Any
    encoded_mask_BxL: jax.Array
    encoded: KeyValue  # the encoder's output as every layer's keys and values
    target_emotion_BxC: jax.Array | None

    def step(
        self, token_B: jax.Array, position: jax.Array, past: KeyValue
    ) -> tuple[jax.Array, KeyValue]:
        """Decodes the token at `position` (int32 scalar): (hidden [B, D], the updated past)."""
        hidden_Bx1xD, cache = self.model.apply(
            {"params": self.params},
            token_B[:, None],
            position,
            DecoderCache(past, self.encoded),
            self.encoded_mask_BxL,
            self.target_emotion_BxC,
            method="decode_step",
        )
        return hidden_Bx1xD[:, 0], cache.self_attention

    def log_probabilities(self, hidden_xD: jax.Array) -> jax.Array:
        """float32 [..., V] of the next token: the model's own, before any rule or temperature."""
        # Products in the compute dtype, summed in float32, as in training.
        table_VxD = self.params["token_embedding"].astype(hidden_xD.dtype)
        logits_xV = jnp.einsum(
            "...d,vd->...v", hidden_xD, table_VxD, preferred_element_type=jnp.float32
        )
        return jax.nn.log_softmax(logits_xV)


class Started(NamedTuple):
    """A stream that has decoded the start token."""

    decoder: Stream | GuidedStream
    hidden: Any  # [B, D]
    past: Any  # [layers, B, T, H, E]

    @property
    def rows(self) -> int:
        """B."""
        return jax.tree.leaves(self.hidden)[0].shape[0]


def start(model: Igerg, params: Any, source: Source, max_tokens: int) -> Started:
    """A stream over `source`, with room for `max_tokens`."""
    mask_BxL = source.encoded.mask_BxL
    hidden_Bx1xD, cache = model.apply(
        {"params": params},
        jnp.full((mask_BxL.shape[0], 1), model.special.decoder_start, jnp.int32),
        source.encoded.hidden_BxLxD,
        mask_BxL,
        source.target_emotion_BxC,
        max_tokens,
        method="start_decoding",
    )
    stream = Stream(model, params, mask_BxL, cache.cross_attention, source.target_emotion_BxC)
    return Started(stream, hidden_Bx1xD[:, 0], cache.self_attention)


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
        if chosen.guidance < 0:
            raise UserError(f"generate.guidance={chosen.guidance} must be at least 0")
        if not 0 <= chosen.guidance_floor <= 1:
            raise UserError(
                f"generate.guidance_floor={chosen.guidance_floor} must be between 0 and 1"
            )
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
        self, token_B: jax.Array, position: jax.Array, past: tuple[KeyValue, KeyValue]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[KeyValue, KeyValue]]:
        """As `Stream.step`."""
        pairs = [s.step(token_B, position, p) for s, p in zip(self.streams, past, strict=True)]
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
