"""The stacks of the text side: sequence encoder and response decoder.

Letters as in `igerg_jax.batch`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.models import layers
from igerg_jax.models.settings import StackSettings


class Encoder(nn.Module):
    """A stack of encoder layers over an embedded sequence (BART's with norm_first=False)."""

    settings: StackSettings

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, mask_BxL: jax.Array) -> jax.Array:
        """Maps [B, L, D] to [B, L, D]; nothing attends to where `mask` (bool) is False."""
        stack = layers.stacked(layers.EncoderLayer, self.settings, scanned=0, broadcast=1)
        x_BxLxD, _ = stack(self.settings, name="layers")(x_BxLxD, mask_BxL[:, None, None, :])
        return _last_norm(self.settings, x_BxLxD)


class Decoder(nn.Module):
    """A stack of decoder layers (BART's with norm_first=False)."""

    settings: StackSettings

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
          ([B, T, D], every layer's cache with a leading layer axis, or None). Without
          `keep_cache` there is none, so that training does not carry it.
        """
        length = x_BxTxD.shape[1]
        if cache is None:
            at_T, keys = jnp.arange(length), length
        else:
            keys = cache.self_attention.k_BxMxHxE.shape[2]
            at_T = position + jnp.arange(length)
        causal_1x1xTxM = (at_T[:, None] >= jnp.arange(keys)[None, :])[None, None]
        mask_Bx1x1xL = encoded_mask_BxL[:, None, None, :]
        stack = layers.stacked(layers.DecoderLayer, self.settings, scanned=1, broadcast=4)
        x_BxTxD, cache = stack(self.settings, keep_cache, name="layers")(
            x_BxTxD, cache, encoded_BxLxD, causal_1x1xTxM, mask_Bx1x1xL, position
        )
        return _last_norm(self.settings, x_BxTxD), cache


def _last_norm(settings: StackSettings, x_BxLxD: jax.Array) -> jax.Array:
    """With `norm_first` the last layer's sum is not normalised yet."""
    if not settings.norm_first:
        return x_BxLxD
    return layers.layer_norm("norm")(x_BxLxD).astype(settings.dtype)
