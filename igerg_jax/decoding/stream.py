"""A decoder stream: the response decoder over one encoder output, token by token.

The search loops use only a stream's two methods, and carry hidden states and caches as opaque
pytrees: one array or cache for a `Stream`, a pair of them for a `guidance.GuidedStream`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igerg_jax.models.arithmetic import table_product
from igerg_jax.models.igerg import Encoded, Igerg
from igerg_jax.models.layers import (
    DecoderCache,
    DecodingStep,
    KeyValue,
    by_layer,
    parameters_by_layer,
)
from igerg_jax.models.partitioning import is_one_cpu


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
    encoded: KeyValue | list[KeyValue]  # the encoder's output as every layer's keys and values
    target_emotion_BxC: jax.Array | None

    def step(self, token_BxK: jax.Array, step: DecodingStep, past: Any) -> tuple[jax.Array, Any]:
        """Decodes one token of each response: (hidden [B, K, D], the updated past)."""
        in_list = isinstance(past, list)
        cache = DecoderCache(past, self.encoded)
        hidden_BxKxD, cache = self.model.apply(
            {"params": self.params},
            token_BxK,
            step,
            [DecoderCache(*layer) for layer in zip(*cache, strict=True)] if in_list else cache,
            self.encoded_mask_BxL,
            self.target_emotion_BxC,
            method="decode_step",
        )
        past = [layer.self_attention for layer in cache] if in_list else cache.self_attention
        return hidden_BxKxD, past

    def log_probabilities(self, hidden_xD: jax.Array) -> jax.Array:
        """float32 [..., V] of the next token: the model's own, before any rule or temperature."""
        # Products in the compute dtype, summed in float32, as in training.
        table_VxD = self.params["token_embedding"].astype(hidden_xD.dtype)
        return jax.nn.log_softmax(table_product(hidden_xD, table_VxD))


class Started(NamedTuple):
    """A stream that has decoded the start token."""

    decoder: Any  # a `Stream`, or an object with its two methods
    hidden: Any  # [B, D]
    past: Any  # a cache of all layers, or a list of one for each

    @property
    def rows(self) -> int:
        """B."""
        return jax.tree.leaves(self.hidden)[0].shape[0]

    def repeated(self, count: int) -> tuple[Any, Any]:
        """`hidden` [B, K, D] and `past`, with T * K places, for K = `count` responses per row.

        Their start token is one for all: that of response 0.
        """
        hidden = jax.tree.map(lambda x: jnp.repeat(x[:, None], count, axis=1), self.hidden)

        def with_room(past: KeyValue) -> KeyValue:
            return past.with_room((count - 1) * past.v_BxHxMxE.shape[-2])

        is_cache = lambda x: isinstance(x, KeyValue)  # noqa: E731
        return hidden, jax.tree.map(with_room, self.past, is_leaf=is_cache)

    def step(
        self, token_BxK: jax.Array, position: jax.Array, paths_BxKxT: jax.Array, past: Any
    ) -> tuple[Any, Any]:
        """Decodes the token of each response at `position`: (hidden [B, K, D], the updated past).

        Args:
          paths_BxKxT: as `DecodingStep.of_paths` takes it.
        """
        return self.decoder.step(token_BxK, DecodingStep.of_paths(position, paths_BxKxT), past)


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
    past, encoded = cache
    if is_one_cpu():
        past, encoded = by_layer(past), by_layer(encoded)
        params = {**params, "decoder": parameters_by_layer(params["decoder"])}
    stream = Stream(model, params, mask_BxL, encoded, source.target_emotion_BxC)
    return Started(stream, hidden_Bx1xD[:, 0], past)
