"""The heads on the encoder's output, and the judge of a text's emotion.

Letters as in `igerg_jax.batch`; J = the judge's width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.models import initializers
from igerg_jax.models.layers import Encoder, dense, layer_norm
from igerg_jax.models.partitioning import lookup, replicate_small_parameter, shard_activations
from igerg_jax.models.settings import JudgeSettings


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


class Judge(nn.Module):
    """A small Transformer that classifies a text's emotion, from ids or mixtures of embeddings.

    It shares the generator's vocabulary but has its own embedding table, so that a distribution
    over tokens can be given to it as an expected embedding. It has no dropout: it must be the
    same function wherever it is used.
    """

    settings: JudgeSettings

    def setup(self):
        s = self.settings
        self.table_VxJ = self.param(
            "embedding", initializers.normal("vocab", "embed"), (s.vocab_size, s.width)
        )
        self.positions_LxJ = self.param(
            "position_embedding",
            initializers.normal("positions", "embed"),
            (s.max_positions, s.width),
        )
        self.encoder = Encoder(s.stack)
        self.classifier = nn.Dense(
            NUM_EMOTIONS,
            kernel_init=initializers.normal("embed", "classes"),
            bias_init=initializers.zeros("classes"),
        )

    def classify_tokens(self, tokens_BxT: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """Emotion logits float32 [B, C] of token ids int32 [B, T]."""
        return self(lookup(self.table_VxJ, tokens_BxT), mask_BxT)

    def __call__(self, embedded_BxTxJ: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """Emotion logits float32 [B, C] of embeddings [B, T, J] (rows of `embedding`, mixed).

        The logits of a row without a real token are only the classifier's bias.
        """
        length = embedded_BxTxJ.shape[1]
        positions_LxJ = replicate_small_parameter(self.positions_LxJ)
        x_BxTxJ = (embedded_BxTxJ + positions_LxJ[None, :length]).astype(self.settings.stack.dtype)
        x_BxTxJ = jnp.where(mask_BxT[..., None], x_BxTxJ, 0)
        h_BxTxJ = self.encoder(x_BxTxJ, mask_BxT).astype(jnp.float32)
        weight_BxTx1 = mask_BxT[..., None].astype(jnp.float32)
        mean_BxJ = (h_BxTxJ * weight_BxTx1).sum(1) / jnp.maximum(weight_BxTx1.sum(1), 1.0)
        return self.classifier(mean_BxJ)
