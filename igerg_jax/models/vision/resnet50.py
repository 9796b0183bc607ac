"""ResNet-50 with its ImageNet logits, as the original's "visual words" (batch norms frozen).

Letters as in `igerg_jax.models.vision`.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.models import initializers
from igerg_jax.models.settings import check_one_token, check_pixels
from igerg_jax.models.vision.resnet import NORM_EPSILON, convolution

# ImageNet's channel statistics, with which ResNet-50's weights were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What this tower reads of `config.model.vision`."""

    tokens_per_image: int
    dtype: jnp.dtype

    def check(self, image_size: int, feature_dim: int) -> None:
        check_pixels(feature_dim)
        check_one_token("resnet50", self.tokens_per_image)


class FrozenBatchNorm(nn.Module):
    """Batch norm with the statistics that were loaded, never updated: an affine map."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        zeros, ones = initializers.zeros("norm"), initializers.ones("norm")
        channels = (x.shape[-1],)
        # Statistics are measured, not learnt: a gradient step could make a variance negative.
        mean = jax.lax.stop_gradient(self.param("mean", zeros, channels))
        variance = jax.lax.stop_gradient(self.param("variance", ones, channels))
        scale = self.param("scale", ones, channels) / jnp.sqrt(variance + NORM_EPSILON)
        shift = self.param("bias", zeros, channels) - scale * mean
        scale, shift = (y.astype(self.dtype)[None, None, None] for y in (scale, shift))
        return x * scale + shift


def _convolve(x, channels: int, size: int, stride: int, dtype, name: str) -> jax.Array:
    """A convolution and its batch norm."""
    x = convolution(channels, size, stride, dtype, "norm", name)(x)
    return FrozenBatchNorm(dtype, name=f"{name}_norm")(x)


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 block; the stride sits on the 3x3 (v1.5, as torchvision's)."""

    channels: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(_convolve(x, self.channels, 1, 1, self.dtype, "conv1"))
        y = nn.relu(_convolve(y, self.channels, 3, self.stride, self.dtype, "conv2"))
        y = _convolve(y, 4 * self.channels, 1, 1, self.dtype, "conv3")
        if x.shape != y.shape:
            x = _convolve(x, 4 * self.channels, 1, self.stride, self.dtype, "shortcut")
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """ResNet-50 v1.5 with its 1000-way ImageNet layer (He et al. 2016), batch norms frozen."""

    settings: Settings

    @nn.compact
    def __call__(self, images_IxHxWx3: jax.Array) -> jax.Array:
        """Maps uint8 [I, side, side, 3] to ImageNet logits [I, 1, 1000]: one token an image."""
        dtype = self.settings.dtype
        mean, std = jnp.asarray(IMAGENET_MEAN), jnp.asarray(IMAGENET_STD)
        x = images_IxHxWx3.astype(jnp.float32) / 255.0
        x = ((x - mean[None, None, None]) / std[None, None, None]).astype(dtype)
        x = nn.relu(_convolve(x, 64, 7, 2, dtype, "stem"))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                x = Bottleneck(64 * 2**stage, stride, dtype, name=f"stage{stage}_block{block}")(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2)).astype(dtype)
        logits_Ix1000 = nn.Dense(
            1000,
            dtype=dtype,
            kernel_init=initializers.normal("embed", "classes"),
            bias_init=initializers.zeros("classes"),
            name="classifier",
        )(x)
        return logits_Ix1000[:, None]


TOWER = (Settings, ResNet50)
