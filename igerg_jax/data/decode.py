"""The pixels of a batch as a TensorFlow graph: JPEG bytes and numbers in, uint8 images out.

Each image goes all the way alone, from its bytes to finished pixels: what lies between (float32
pixels, several times the size of the result) then stays in a core's cache, and is never there for
a whole batch at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from igerg_jax.batch import BatchSpec
from igerg_jax.data.augment import Recipe
from igerg_jax.data.images import imagenet_crops
from igerg_jax.data.lazy_tensorflow import tf

# config.data.preprocessing. With the second, what recipes say is not read.
AUGMENT, IMAGENET = PREPROCESSING = ("augment", "imagenet")

_NOTHING, _SHRUNK = 0, (1, 2, 4, 8)  # how a slot is made: not at all, or decoded so much smaller

# {name: (dtype, shape of a row)} of what Python passes to the graph: one row per image slot, B * N.
PARTS = {
    "jpeg": ("string", []),
    "way": ("int32", []),  # _NOTHING, or 1 + the recipe's halvings
    "crop": ("int32", [4]),
    "flip": ("bool", []),
    "colour": ("float32", [3, 3]),
    "offset": ("float32", []),
}


def parts(
    jpegs_M: np.ndarray, recipe: Recipe, place_M: np.ndarray, slots: int
) -> tuple[np.ndarray, ...]:
    """Arranges the M images of a batch for `images`.

    Args:
      jpegs_M: object[M], bytes.
      recipe: what to make of them.
      place_M: int[M], row * N + slot of each.
      slots: B * N.

    Returns:
      Arrays of `PARTS`.
    """

    def spread(values: np.ndarray, empty: object) -> np.ndarray:
        out = np.full((slots, *values.shape[1:]), empty, values.dtype)
        out[place_M] = values
        return out

    return (
        spread(jpegs_M, b""),
        spread(recipe.halvings + np.int32(1), _NOTHING),
        spread(recipe.crop, 0),
        spread(recipe.flip, False),
        # A column is what one channel of the source adds to the result's: RGB @ colour.
        spread(recipe.colour.transpose(0, 2, 1), 0),
        spread(recipe.offset, 0),
    )


def images(spec: BatchSpec, preprocessing: str, *parts_S: tf.Tensor) -> tf.Tensor:
    """uint8[B, N, H, W, 3] from `PARTS`, zero where a slot has no image."""
    side = spec.image_size
    shaped = [
        tf.ensure_shape(part, [spec.batch_size * spec.images, *shape])
        for part, (_, shape) in zip(parts_S, PARTS.values(), strict=True)
    ]
    if preprocessing == IMAGENET:
        crops = functools.partial(imagenet_crops, side)
        pixels = tf.numpy_function(crops, shaped[:1], tf.uint8)
    else:
        pixels = tf.map_fn(
            lambda image: _make(*image, side),
            tuple(shaped),
            fn_output_signature=tf.TensorSpec([side, side, 3], tf.uint8),
        )
    return tf.reshape(pixels, [spec.batch_size, spec.images, side, side, 3])


def _make(
    jpeg: tf.Tensor,
    way: tf.Tensor,
    crop: tf.Tensor,
    flip: tf.Tensor,
    colour: tf.Tensor,
    offset: tf.Tensor,
    side: int,
) -> tf.Tensor:
    """uint8[side, side, 3]."""

    def nothing() -> tf.Tensor:
        return tf.zeros([side, side, 3], tf.uint8)

    def decoder(ratio: int) -> Callable[[], tf.Tensor]:
        return lambda: finish(tf.io.decode_and_crop_jpeg(jpeg, crop, channels=3, ratio=ratio))

    def finish(image: tf.Tensor) -> tf.Tensor:
        pixels = tf.reshape(tf.image.resize(image, [side, side]), [side * side, 3])
        # Half a step more, since the cast cuts fractions off.
        pixels = tf.clip_by_value(tf.matmul(pixels, colour) + (offset + 0.5), 0, 255)
        made = tf.reshape(tf.cast(pixels, tf.uint8), [side, side, 3])
        return tf.cond(flip, lambda: tf.reverse(made, [1]), lambda: made)

    return tf.switch_case(way, [nothing, *map(decoder, _SHRUNK)])
