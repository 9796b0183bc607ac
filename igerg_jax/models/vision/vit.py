"""ViT with attention-pooled tokens. Letters as in `igerg_jax.models.vision`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.constraints import check_choice
from igerg_jax.errors import UserError
from igerg_jax.models import initializers, layers
from igerg_jax.models.attention import Attention
from igerg_jax.models.convolution import convolve
from igerg_jax.models.partitioning import replicate_small_parameter
from igerg_jax.models.settings import StackSettings, check_heads, check_pixels

VIT_EPSILON = 1e-6  # of layer norms that no pre-trained ViT has


@dataclasses.dataclass(frozen=True)
class Settings(StackSettings):
    """What this tower reads of `config.model.vision`, its layers' settings among it.

    Attributes:
      stem: a key of `STEMS`.
      class_token: a learned vector before the patches, counted in P.
    """

    stem: str
    patch_size: int
    width: int
    class_token: bool
    tokens_per_image: int
    norm_first: bool = dataclasses.field(default=True, init=False)  # as ViT is; no key

    def check(self, image_size: int, feature_dim: int) -> None:
        check_pixels(feature_dim)
        check_choice("model.vision.stem", self.stem, STEMS)
        if image_size % self.patch_size:
            raise UserError(
                f"data.image_size={image_size} does not divide into patches of "
                f"model.vision.patch_size={self.patch_size} pixels"
            )
        if self.stem == "convolution" and self.patch_size.bit_count() != 1:
            raise UserError(
                f"model.vision.stem='convolution' needs a model.vision.patch_size that is a power "
                f"of 2, not {self.patch_size}"
            )
        check_heads("vision", self.width, self.heads)


class PatchStem(nn.Module):
    """ViT's patch embedding: one linear map per patch."""

    settings: Settings

    @nn.compact
    def __call__(self, x_IxHxWx3: jax.Array) -> jax.Array:
        """Maps [I, side, side, 3] to [I, side / patch_size, side / patch_size, W]."""
        s = self.settings
        return _convolution(s.width, s.patch_size, s.patch_size, s.dtype, "patch_embedding")(
            x_IxHxWx3
        )


class ConvolutionStem(nn.Module):
    """3x3 convolutions of stride 2 down to the patch grid, then 1x1.

    Learns from far fewer images than linear patches do (Xiao et al. 2021, "Early convolutions
    help transformers see better", https://arxiv.org/abs/2106.14881).
    """

    settings: Settings

    @nn.compact
    def __call__(self, x_IxHxWx3: jax.Array) -> jax.Array:
        """As `PatchStem`, for a `patch_size` that is a power of 2."""
        s, x = self.settings, x_IxHxWx3
        halvings = s.patch_size.bit_length() - 1
        for i in range(halvings):
            channels = max(s.width // 2 ** (halvings - 1 - i), 8)
            name = f"convolution{i}"
            x = _convolution(channels, 3, 2, s.dtype, name)(x)
            x = nn.gelu(layers.layer_norm(f"{name}_norm", VIT_EPSILON)(x)).astype(s.dtype)
        return _convolution(s.width, 1, 1, s.dtype, "projection")(x)


# model.vision.stem -> how pixels become the first patch vectors
STEMS = {"patch": PatchStem, "convolution": ConvolutionStem}


def _convolution(channels: int, size: int, stride: int, dtype, name: str) -> nn.Conv:
    lecun = nn.initializers.lecun_normal()
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        padding="SAME",
        conv_general_dilated=convolve,
        dtype=dtype,
        kernel_init=initializers.named(lecun, (None, None, None, "embed")),
        bias_init=initializers.zeros("norm"),
        name=name,
    )


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929)."""

    settings: Settings

    @nn.compact
    def __call__(self, images_IxHxWx3: jax.Array) -> jax.Array:
        """Maps uint8 [I, side, side, 3] to patch features, float [I, P, W] in `dtype`."""
        s = self.settings
        table_init = initializers.normal("positions", "embed")
        x = (images_IxHxWx3.astype(jnp.float32) / 127.5 - 1.0).astype(s.dtype)
        x = STEMS[s.stem](s, name="stem")(x)
        x_IxPxW = x.reshape(x.shape[0], -1, s.width)
        if s.class_token:
            class_1xW = self.param("class_token", table_init, (1, s.width))
            class_Ix1xW = jnp.broadcast_to(class_1xW[None], (x.shape[0], 1, s.width))
            x_IxPxW = jnp.concatenate([class_Ix1xW.astype(s.dtype), x_IxPxW], axis=1)
        positions_PxW = self.param("position_embedding", table_init, x_IxPxW.shape[1:])
        positions_PxW = replicate_small_parameter(positions_PxW).astype(s.dtype)
        x_IxPxW = layers.dropout(self, s.dropout_rate, x_IxPxW + positions_PxW[None])
        encoder_layers = layers.stack(layers.EncoderLayer, s, None, scanned=0, broadcast=1)
        x_IxPxW, _ = encoder_layers(x_IxPxW, None)
        return layers.layer_norm("norm", s.norm_epsilon)(x_IxPxW).astype(s.dtype)


class AttentionPool(nn.Module):
    """K learned queries that each gather one token from the patches.

    The multi-head attention pooling of Set Transformer (https://arxiv.org/abs/1810.00825), as in
    SigLIP's head, with K queries instead of one.
    """

    settings: Settings

    @nn.compact
    def __call__(self, x_IxPxW: jax.Array) -> jax.Array:
        """Maps [I, P, W] to [I, K, W]."""
        s = dataclasses.replace(self.settings, attention="xla")
        queries_KxW = self.param(
            "queries", initializers.normal("positions", "embed"), (s.tokens_per_image, s.width)
        )
        queries_IxKxW = jnp.broadcast_to(
            queries_KxW.astype(s.dtype)[None], (x_IxPxW.shape[0], *queries_KxW.shape)
        )
        y_IxKxW, _ = Attention(s, name="attention")(queries_IxKxW, x_IxPxW, None)
        h_IxKxW = layers.layer_norm("norm", s.norm_epsilon)(y_IxKxW).astype(s.dtype)
        return y_IxKxW + layers.Mlp(s, name="mlp")(h_IxKxW)


class PooledViT(nn.Module):
    """ViT, then K attention-pooled tokens."""

    settings: Settings

    @nn.compact
    def __call__(self, images_IxHxWx3: jax.Array) -> jax.Array:
        """Maps uint8 [I, side, side, 3] to [I, K, W]."""
        x_IxPxW = VisionTransformer(self.settings, name="vit")(images_IxHxWx3)
        x_IxKxW = AttentionPool(self.settings, name="pool")(x_IxPxW)
        # Without this norm visual tokens start ten times fainter than the turn and type embeddings
        # that are added to them, and hundreds of steps pass before an image counts for anything.
        return layers.layer_norm("norm", VIT_EPSILON)(x_IxKxW).astype(self.settings.dtype)


TOWER = (Settings, PooledViT)
