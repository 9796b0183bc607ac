"""Residual networks (He et al. 2016, https://arxiv.org/abs/1512.03385): a small one of any size,
and the blocks that ResNet-50 shares with it. Letters as in `igerg_jax.models.vision`.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.constraints import check_choice
from igerg_jax.errors import UserError
from igerg_jax.models import initializers, layers
from igerg_jax.models.convolution import convolve
from igerg_jax.models.settings import check_one_token, check_pixels

NORM_EPSILON = 1e-5  # as torchvision's
_GROUP_CHANNELS = 16  # per group of a group norm (Wu & He 2018, table 3)

Norm = Callable[[str], nn.Module]  # a norm over channels, by the name of its parameters


def group_norm(name: str) -> nn.Module:
    """Over the positions of an image and 16 channels at a time (https://arxiv.org/abs/1803.08494)."""
    return nn.GroupNorm(
        num_groups=None,
        group_size=_GROUP_CHANNELS,
        epsilon=NORM_EPSILON,
        scale_init=initializers.ones("norm"),
        bias_init=initializers.zeros("norm"),
        name=name,
    )


# model.vision.channel_norm. Unlike batch norm, neither depends on the other images of a batch.
NORMS: dict[str, Norm] = {
    "group": group_norm,
    # Over the channels of each position.
    "layer": lambda name: layers.layer_norm(name, NORM_EPSILON),
}


# model.vision.pooling: what becomes of the last feature map. Where faces are aligned, as FER2013's,
# its positions mean something (here are mouths, there eyes), which "positions" keeps apart.
POOLINGS = ("mean", "positions")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What this tower reads of `config.model.vision`.

    Attributes:
      depths: residual blocks of each stage; all stages but the first halve the resolution.
      widths: channels of each stage.
      channel_norm: a key of `NORMS`.
      pooling: one of `POOLINGS`.
      dropout_rate: of the visual token.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    channel_norm: str
    pooling: str
    dropout_rate: float
    tokens_per_image: int
    dtype: jnp.dtype

    def check(self, image_size: int, feature_dim: int) -> None:
        check_pixels(feature_dim)
        check_one_token("resnet", self.tokens_per_image)
        check_choice("model.vision.channel_norm", self.channel_norm, NORMS)
        check_choice("model.vision.pooling", self.pooling, POOLINGS)
        sizes = (*self.depths, *self.widths)
        if len(self.depths) != len(self.widths) or not sizes or min(sizes) < 1:
            raise UserError(
                f"model.vision.depths={self.depths} and model.vision.widths={self.widths} must be "
                "the blocks and the channels of the same stages, at least 1 each"
            )
        wrong = [width for width in self.widths if width % _GROUP_CHANNELS]
        if self.channel_norm == "group" and wrong:
            raise UserError(
                f"model.vision.widths={self.widths}: {wrong[0]} channels do not divide into the "
                f"{_GROUP_CHANNELS} of a group of model.vision.channel_norm='group'"
            )


def convolution(
    channels: int, size: int, stride: int, dtype: jnp.dtype, out_axis: str, name: str
) -> nn.Conv:
    """A convolution without a bias, padded as in torchvision.

    Args:
      out_axis: the logical axis of its output channels.
    """
    pad = (size - 1) // 2
    he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        conv_general_dilated=convolve,
        use_bias=False,
        dtype=dtype,
        kernel_init=initializers.named(he, (None, None, None, out_axis)),
        name=name,
    )


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions; the first has the stride."""

    channels: int
    stride: int
    norm: Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self._normed(x, 3, self.stride, "conv1"))
        y = self._normed(y, 3, 1, "conv2")
        if x.shape != y.shape:
            x = self._normed(x, 1, self.stride, "shortcut")
        return nn.relu(x + y)

    def _normed(self, x: jax.Array, size: int, stride: int, name: str) -> jax.Array:
        x = convolution(self.channels, size, stride, self.dtype, "embed", name)(x)
        return self.norm(f"{name}_norm")(x).astype(self.dtype)


class ResNet(nn.Module):
    """Stages of `BasicBlock`s, then one token from all positions of an image."""

    settings: Settings

    @nn.compact
    def __call__(self, images_IxHxWx3: jax.Array) -> jax.Array:
        """Maps uint8 [I, side, side, 3] to [I, 1, W], W = the last of `widths`."""
        s, norm = self.settings, NORMS[self.settings.channel_norm]
        x = (images_IxHxWx3.astype(jnp.float32) / 127.5 - 1.0).astype(s.dtype)
        x = convolution(s.widths[0], 3, 2, s.dtype, "embed", "stem")(x)
        x = nn.relu(norm("stem_norm")(x).astype(s.dtype))
        for stage, (depth, width) in enumerate(zip(s.depths, s.widths, strict=True)):
            for block in range(depth):
                stride = 2 if block == 0 and stage > 0 else 1
                name = f"stage{stage}_block{block}"
                x = BasicBlock(width, stride, norm, s.dtype, name=name)(x)
        x_IxW = layers.dropout(self, s.dropout_rate, self._pooled(x).astype(jnp.float32))
        # Normalised to the scale of the embeddings added to it: see `vit.PooledViT`.
        return layers.layer_norm("norm", NORM_EPSILON)(x_IxW).astype(s.dtype)[:, None]

    def _pooled(self, x_IxHxWxC: jax.Array) -> jax.Array:
        """Maps the last feature map to [I, C]."""
        if self.settings.pooling == "mean":
            return x_IxHxWxC.astype(jnp.float32).mean(axis=(1, 2))
        project = nn.Dense(
            x_IxHxWxC.shape[-1],
            use_bias=False,  # a layer norm with a bias follows
            dtype=self.settings.dtype,
            kernel_init=initializers.named(nn.initializers.lecun_normal(), (None, "embed")),
            name="positions",
        )
        return project(x_IxHxWxC.reshape(x_IxHxWxC.shape[0], -1))


TOWER = (Settings, ResNet)
