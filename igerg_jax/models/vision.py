"""Vision towers: what turns an image, or its precomputed features, into visual tokens.

Letters as in `igerg_jax.batch`; I = images of a batch, flattened (B*N); P = patches; W = the
tower's own width.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.models import layers
from igerg_jax.models.partitioning import whole

VIT_EPSILON = 1e-6  # of layer norms that are this code's own

# ImageNet's channel statistics, with which ResNet-50's weights were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PatchStem(nn.Module):
    """ViT's patch embedding: one linear map a patch."""

    patch_size: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_IxHxWx3: jax.Array) -> jax.Array:
        """Maps [I, side, side, 3] to [I, side / patch_size, side / patch_size, W]."""
        size = (self.patch_size, self.patch_size)
        return _convolution(self.width, size, size, self.dtype, "patch_embedding")(x_IxHxWx3)


class ConvolutionStem(nn.Module):
    """3x3 convolutions of stride 2 down to the patch grid, then 1x1.

    Learns from far fewer images than linear patches do (Xiao et al. 2021, "Early convolutions
    help transformers see better", https://arxiv.org/abs/2106.14881).
    """

    patch_size: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_IxHxWx3: jax.Array) -> jax.Array:
        """As `PatchStem`. Raises ValueError where `patch_size` is not a power of 2."""
        halvings = self.patch_size.bit_length() - 1
        if 2**halvings != self.patch_size:
            raise ValueError(f"a convolution stem needs a power of 2, not {self.patch_size} pixels")
        x = x_IxHxWx3
        for i in range(halvings):
            channels = max(self.width // 2 ** (halvings - 1 - i), 8)
            name = f"convolution{i}"
            x = _convolution(channels, (3, 3), (2, 2), self.dtype, name)(x)
            x = nn.gelu(layers.layer_norm(f"{name}_norm", VIT_EPSILON)(x)).astype(self.dtype)
        return _convolution(self.width, (1, 1), (1, 1), self.dtype, "projection")(x)


# model.vision.stem -> how pixels become the first patch vectors
STEMS = {"patch": PatchStem, "convolution": ConvolutionStem}


def _convolution(width: int, size, strides, dtype, name: str) -> nn.Conv:
    return nn.Conv(
        width,
        size,
        strides=strides,
        padding="SAME",
        dtype=dtype,
        kernel_init=layers.named(nn.initializers.lecun_normal(), None, None, None, "embed"),
        bias_init=layers.named(nn.initializers.zeros, "norm"),
        name=name,
    )


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

    With `class_token` its learned vector comes before the patches, and P counts it.
    """

    stem: str
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    dropout_rate: float
    dtype: jnp.dtype
    scan_layers: bool
    remat: str
    attention: str
    class_token: bool
    gelu: str
    norm_epsilon: float

    @nn.compact
    def __call__(self, images_IxHxWx3: jax.Array) -> jax.Array:
        """Maps uint8 [I, side, side, 3] to patch features, float [I, P, W] in `dtype`."""
        x = (images_IxHxWx3.astype(jnp.float32) / 127.5 - 1.0).astype(self.dtype)
        if self.stem not in STEMS:
            raise ValueError(f"model.vision.stem '{self.stem}' is not one of {', '.join(STEMS)}")
        x = STEMS[self.stem](self.patch_size, self.width, self.dtype, name="stem")(x)
        x_IxPxW = x.reshape(x.shape[0], -1, self.width)
        if self.class_token:
            class_1xW = self.param(
                "class_token", layers.normal_init("positions", "embed"), (1, self.width)
            )
            class_Ix1xW = jnp.broadcast_to(class_1xW[None], (x.shape[0], 1, self.width))
            x_IxPxW = jnp.concatenate([class_Ix1xW.astype(self.dtype), x_IxPxW], axis=1)
        positions_PxW = self.param(
            "position_embedding",
            layers.normal_init("positions", "embed"),
            (x_IxPxW.shape[1], self.width),
        )
        x_IxPxW = x_IxPxW + whole(positions_PxW).astype(self.dtype)[None]
        x_IxPxW = layers.dropout(self, self.dropout_rate, x_IxPxW)
        stack = layers.stacked(
            layers.EncoderLayer, self.layers, self.remat, self.scan_layers, 0, broadcast=1
        )
        x_IxPxW, _ = stack(
            self.heads,
            self.mlp_width,
            True,
            self.dropout_rate,
            self.dtype,
            self.norm_epsilon,
            self.attention,
            self.gelu,
            name="layers",
        )(x_IxPxW, None)
        return layers.layer_norm("norm", self.norm_epsilon)(x_IxPxW).astype(self.dtype)


class AttentionPool(nn.Module):
    """K learned queries that each gather one token from the patches.

    The multi-head attention pooling of Set Transformer (https://arxiv.org/abs/1810.00825), as in
    SigLIP's head, with K queries instead of one.
    """

    tokens: int
    heads: int
    mlp_width: int
    dtype: jnp.dtype
    gelu: str
    norm_epsilon: float

    @nn.compact
    def __call__(self, x_IxPxW: jax.Array) -> jax.Array:
        """Maps [I, P, W] to [I, K, W]."""
        queries_KxW = self.param(
            "queries", layers.normal_init("positions", "embed"), (self.tokens, x_IxPxW.shape[-1])
        )
        queries_IxKxW = jnp.broadcast_to(
            queries_KxW.astype(self.dtype)[None], (x_IxPxW.shape[0], *queries_KxW.shape)
        )
        y_IxKxW, _ = layers.Attention(self.heads, self.dtype, "xla", name="attention")(
            queries_IxKxW, x_IxPxW, None
        )
        h_IxKxW = layers.layer_norm("norm", self.norm_epsilon)(y_IxKxW).astype(self.dtype)
        return y_IxKxW + layers.Mlp(self.mlp_width, self.dtype, self.gelu, name="mlp")(h_IxKxW)


class FrozenBatchNorm(nn.Module):
    """Batch norm with stored statistics, which stay as they were loaded: an affine map."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = layers.named(nn.initializers.zeros, "norm")
        ones = layers.named(nn.initializers.ones, "norm")
        channels = (x.shape[-1],)
        # Statistics are measured, not learnt: a gradient step could make a variance negative.
        mean = jax.lax.stop_gradient(self.param("mean", zeros, channels))
        variance = jax.lax.stop_gradient(self.param("variance", ones, channels))
        scale = self.param("scale", ones, channels) / jnp.sqrt(variance + 1e-5)
        shift = self.param("bias", zeros, channels) - scale * mean
        scale, shift = (y.astype(self.dtype)[None, None, None] for y in (scale, shift))
        return x * scale + shift


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 block; the stride sits on the 3x3 (v1.5, as torchvision's)."""

    channels: int
    stride: int
    dtype: jnp.dtype

    def _convolution(self, x, channels: int, size: int, stride: int, name: str) -> jax.Array:
        pad = (size - 1) // 2
        x = nn.Conv(
            channels,
            (size, size),
            strides=stride,
            padding=((pad, pad), (pad, pad)),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=layers.named(
                nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
                *(None, None, None, "norm"),
            ),
            name=name,
        )(x)
        return FrozenBatchNorm(self.dtype, name=f"{name}_norm")(x)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self._convolution(x, self.channels, 1, 1, "conv1"))
        y = nn.relu(self._convolution(y, self.channels, 3, self.stride, "conv2"))
        y = self._convolution(y, 4 * self.channels, 1, 1, "conv3")
        if x.shape != y.shape:
            x = self._convolution(x, 4 * self.channels, 1, self.stride, "shortcut")
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """ResNet-50 v1.5 with its 1000-way ImageNet layer (He et al. 2016), batch norms frozen."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images_IxHxWx3: jax.Array) -> jax.Array:
        """Maps uint8 [I, side, side, 3] to ImageNet logits [I, 1, 1000]: one token an image."""
        mean, std = jnp.asarray(IMAGENET_MEAN), jnp.asarray(IMAGENET_STD)
        x = images_IxHxWx3.astype(jnp.float32) / 255.0
        x = ((x - mean[None, None, None]) / std[None, None, None]).astype(self.dtype)
        x = nn.Conv(
            64,
            (7, 7),
            strides=2,
            padding=((3, 3), (3, 3)),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=layers.named(
                nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
                *(None, None, None, "norm"),
            ),
            name="stem",
        )(x)
        x = nn.relu(FrozenBatchNorm(self.dtype, name="stem_norm")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                name = f"stage{stage}_block{block}"
                x = Bottleneck(64 * 2**stage, stride, self.dtype, name=name)(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2)).astype(self.dtype)
        logits_Ix1000 = nn.Dense(
            1000,
            dtype=self.dtype,
            kernel_init=layers.normal_init("embed", "classes"),
            bias_init=layers.named(nn.initializers.zeros, "classes"),
            name="classifier",
        )(x)
        return logits_Ix1000[:, None]


class FeatureTower(nn.Module):
    """Precomputed vectors as they are: one token an image. A vector of zeros is an image too."""

    dtype: jnp.dtype

    def __call__(self, features_IxF: jax.Array) -> jax.Array:
        """Maps [I, F] to [I, 1, F]."""
        return features_IxF[:, None].astype(self.dtype)


class PooledViT(nn.Module):
    """ViT, then K attention-pooled tokens."""

    settings: Mapping
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images_IxHxWx3: jax.Array) -> jax.Array:
        """Maps uint8 [I, side, side, 3] to [I, K, W]."""
        keys = ("stem", "patch_size", "width", "layers", "heads", "mlp_width", "dropout_rate")
        keys += ("scan_layers", "remat", "attention", "class_token", "gelu", "norm_epsilon")
        x_IxPxW = VisionTransformer(
            dtype=self.dtype, name="vit", **{key: self.settings[key] for key in keys}
        )(images_IxHxWx3)
        x_IxKxW = AttentionPool(
            self.settings["tokens_per_image"],
            self.settings["heads"],
            self.settings["mlp_width"],
            self.dtype,
            self.settings["gelu"],
            self.settings["norm_epsilon"],
            name="pool",
        )(x_IxPxW)
        # Without it what was seen starts ten times fainter than the turn and type embeddings
        # that are added to it, and hundreds of steps pass before an image counts for anything.
        return layers.layer_norm("norm", VIT_EPSILON)(x_IxKxW).astype(self.dtype)


# model.vision.kind -> how to make the tower from model.vision
TOWERS = {
    "vit": PooledViT,
    "resnet50": lambda settings, dtype: ResNet50(dtype),
    "features": lambda settings, dtype: FeatureTower(dtype),
}


def tower(settings: Mapping, dtype: jnp.dtype) -> nn.Module:
    """The module named by `settings["kind"]`; it maps [I, ...] to [I, K, W].

    Raises:
      ValueError: the kind is unknown, or cannot make `tokens_per_image` tokens.
    """
    kind = settings["kind"]
    if kind not in TOWERS:
        raise ValueError(f"model.vision.kind '{kind}' is not one of {', '.join(TOWERS)}")
    if kind != "vit" and settings["tokens_per_image"] != 1:
        raise ValueError(f"model.vision.kind '{kind}' makes 1 token an image, not several")
    return TOWERS[kind](settings, dtype)
