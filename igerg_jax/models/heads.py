"""What turns the encoder's output into predictions. Letters as in `igerg_jax.batch`."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.models.layers import dense, layer_norm
from igerg_jax.models.partitioning import shard_activations


class EmotionHead(nn.Module):
    """Dense, GELU, dense: emotion logits from a hidden vector."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to float32 [..., C]."""
        x = nn.gelu(dense(x.shape[-1], self.dtype, "dense", "embed", "mlp")(x))
        classifier = dense(NUM_EMOTIONS, jnp.float32, "classifier", "mlp", "classes")
        return classifier(x.astype(jnp.float32))


class MaskedTokenHead(nn.Module):
    """Dense, GELU, layer norm; the logits are its output's products with the token embedding."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxSxD: jax.Array) -> jax.Array:
        """Maps [B, S, D] to [B, S, D]."""
        x = nn.gelu(dense(x_BxSxD.shape[-1], self.dtype, "dense", "embed", "mlp")(x_BxSxD))
        return shard_activations(layer_norm("norm")(x).astype(self.dtype))
