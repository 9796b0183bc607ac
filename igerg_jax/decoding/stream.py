"""A decoder stream: the response decoder over one encoder output, token by token.

The search loops know a stream by its two methods alone, and carry hidden states and caches as
opaque pytrees. So two streams whose log-probabilities are combined, as for classifier-free
guidance, are one more class here with pairs of both, and no change to a loop.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from igerg_jax.models.igerg import Encoded, Igerg
from igerg_jax.models.layers import DecoderCache, KeyValue


@dataclasses.dataclass(frozen=True)
class Stream:
    """What stays the same from step to step. Made by `start`."""

    model: Igerg
    params: Any
    encoded_mask_BxL: jax.Array
    encoded: KeyValue  # the encoder's output as every layer's keys and values

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


def start(
    model: Igerg, params: Any, encoded: Encoded, max_tokens: int
) -> tuple[Stream, jax.Array, KeyValue]:
    """Decodes the start token: (the stream, hidden [B, D], the past [layers, B, T, H, E])."""
    start_Bx1 = jnp.full((encoded.mask_BxL.shape[0], 1), model.special.decoder_start, jnp.int32)
    hidden_Bx1xD, cache = model.apply(
        {"params": params},
        start_Bx1,
        encoded.hidden_BxLxD,
        encoded.mask_BxL,
        max_tokens,
        method="start_decoding",
    )
    stream = Stream(model, params, encoded.mask_BxL, cache.cross_attention)
    return stream, hidden_Bx1xD[:, 0], cache.self_attention
