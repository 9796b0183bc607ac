"""The text side: sequence encoder, response decoder, and the judge of a text's emotion.

Letters as in `igerg_jax.batch`; J = the judge's width.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.models import layers
from igerg_jax.models.partitioning import lookup, whole


class Encoder(nn.Module):
    """A stack of encoder layers over an embedded sequence (BART's with norm_first=False)."""

    layers: int
    heads: int
    mlp_width: int
    dropout_rate: float
    norm_first: bool
    dtype: jnp.dtype
    scan_layers: bool
    remat: str
    attention: str

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, mask_BxL: jax.Array) -> jax.Array:
        """Maps [B, L, D] to [B, L, D]; nothing attends to where `mask` (bool) is False."""
        stack = layers.stacked(
            layers.EncoderLayer, self.layers, self.remat, self.scan_layers, 0, broadcast=1
        )
        x_BxLxD, _ = stack(
            self.heads,
            self.mlp_width,
            self.norm_first,
            self.dropout_rate,
            self.dtype,
            layers.BART_EPSILON,
            self.attention,
            "exact",
            name="layers",
        )(x_BxLxD, mask_BxL[:, None, None, :])
        if self.norm_first:
            x_BxLxD = layers.layer_norm("norm")(x_BxLxD).astype(self.dtype)
        return x_BxLxD


class Decoder(nn.Module):
    """A stack of decoder layers (BART's with norm_first=False)."""

    layers: int
    heads: int
    mlp_width: int
    dropout_rate: float
    norm_first: bool
    dtype: jnp.dtype
    scan_layers: bool
    remat: str
    attention: str

    @nn.compact
    def __call__(
        self,
        x_BxTxD: jax.Array,
        encoded_BxLxD: jax.Array | None,
        encoded_mask_BxL: jax.Array,
        cache: layers.DecoderCache | None,
        position: jax.Array | None,
        keep_cache: bool,
    ) -> tuple[jax.Array, layers.DecoderCache | None]:
        """Decodes all of T at once, or, with a cache, the T tokens from `position` on.

        Returns:
          ([B, T, D], what every layer remembers with a leading layer axis, or None). Without
          `keep_cache` nothing is remembered, so that training does not carry it.
        """
        length = x_BxTxD.shape[1]
        if cache is None:
            at_T, keys = jnp.arange(length), length
        else:
            keys = cache.self_attention.k_BxMxHxE.shape[2]
            at_T = position + jnp.arange(length)
        causal_1x1xTxM = (at_T[:, None] >= jnp.arange(keys)[None, :])[None, None]
        stack = layers.stacked(
            layers.DecoderLayer, self.layers, self.remat, self.scan_layers, 1, broadcast=4
        )
        x_BxTxD, cache = stack(
            self.heads,
            self.mlp_width,
            self.norm_first,
            self.dropout_rate,
            self.dtype,
            layers.BART_EPSILON,
            self.attention,
            keep_cache,
            name="layers",
        )(
            x_BxTxD,
            cache,
            encoded_BxLxD,
            causal_1x1xTxM,
            encoded_mask_BxL[:, None, None, :],
            position,
        )
        if self.norm_first:
            x_BxTxD = layers.layer_norm("norm")(x_BxTxD).astype(self.dtype)
        return x_BxTxD, cache


class Judge(nn.Module):
    """A small Transformer that reads a text's emotion, from ids or from mixtures of embeddings.

    It shares the generator's vocabulary but owns its embedding table, so that a distribution
    over tokens can be given to it as an expected embedding. It has no dropout: it must be the
    same function wherever it is used.
    """

    vocab_size: int
    max_positions: int
    classes: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    dtype: jnp.dtype
    scan_layers: bool

    def setup(self):
        self.table_VxJ = self.param(
            "embedding", layers.normal_init("vocab", "embed"), (self.vocab_size, self.width)
        )
        self.positions_LxJ = self.param(
            "position_embedding",
            layers.normal_init("positions", "embed"),
            (self.max_positions, self.width),
        )
        self.encoder = Encoder(
            layers=self.layers,
            heads=self.heads,
            mlp_width=self.mlp_width,
            dropout_rate=0.0,
            norm_first=True,
            dtype=self.dtype,
            scan_layers=self.scan_layers,
            remat="none",
            attention="xla",
        )
        self.classifier = nn.Dense(
            self.classes,
            kernel_init=layers.normal_init("embed", "classes"),
            bias_init=layers.named(nn.initializers.zeros, "classes"),
        )

    def read(self, tokens_BxT: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """Emotion logits float32 [B, C] of token ids int32 [B, T]."""
        return self(lookup(self.table_VxJ, tokens_BxT), mask_BxT)

    def __call__(self, embedded_BxTxJ: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """Emotion logits float32 [B, C] of embeddings [B, T, J] (rows of `embedding`, mixed).

        A row without a real token has the classifier's bias alone.
        """
        length = embedded_BxTxJ.shape[1]
        x = (embedded_BxTxJ + whole(self.positions_LxJ)[None, :length]).astype(self.dtype)
        x = jnp.where(mask_BxT[..., None], x, 0)
        h_BxTxJ = self.encoder(x, mask_BxT).astype(jnp.float32)
        weight_BxTx1 = mask_BxT[..., None].astype(jnp.float32)
        mean_BxJ = (h_BxTxJ * weight_BxTx1).sum(1) / jnp.maximum(weight_BxTx1.sum(1), 1.0)
        return self.classifier(mean_BxJ)
