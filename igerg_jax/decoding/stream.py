"""A decoder stream: the response decoder over one encoder output, token by token.

The search loops use only a stream's two methods, and carry hidden states and caches as opaque
pytrees: one array or cache for a `Stream`, a pair of them for a `guidance.GuidedStream`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igerg_jax.models.igerg import Encoded, Igerg
from igerg_jax.models.layers import DecoderCache, KeyValue


class Source(NamedTuple):
    """What a stream decodes from: an encoder output, and the emotion that conditions it."""

    encoded: Encoded
    target_emotion_BxC: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Stream:
    """What does not change from step to step. Made by `start`."""

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

    decoder: Any  # a `Stream`, or an object with its two methods
    hidden: Any  # [B, D]
    past: Any  # [layers, B, H, T, E]

    @property
    def rows(self) -> int:
        """B."""
        return jax.tree.leaves(self.hidden)[0].shape[0]

    def repeated(self, count: int) -> tuple[Any, Any]:
        """`hidden` and `past` for K = `count` responses per row: [B, K, D], [layers, K, B, …]."""
        return jax.tree.map(
            lambda x: jnp.repeat(x[:, None], count, axis=1), (self.hidden, self.past)
        )

    def step(self, token_BxK: jax.Array, position: jax.Array, past: Any) -> tuple[Any, Any]:
        """The decoder's `step` for K responses per row: (hidden [B, K, D], the updated past).

        Mapped over the responses, not folded into rows: the encoder's keys and values, the larger
        part of the cache, stay one copy per row.
        """
        step = functools.partial(self.decoder.step, position=position)
        one = lambda token_B, past: step(token_B, past=past)  # noqa: E731
        return jax.vmap(one, in_axes=(1, 1), out_axes=(1, 1))(token_BxK, past)


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
