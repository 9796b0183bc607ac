"""Decoding and augmentation as a TensorFlow graph: JPEG bytes and recipes in, uint8 images out.

Images are processed one by one, from bytes to final pixels: the float32 intermediates, several
times the size of the result, stay in a core's cache and never exist for a whole batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from igerg_jax.batch import BatchSpec
from igerg_jax.data.augment import Recipe
from igerg_jax.data.images import imagenet_crops
from igerg_jax.data.lazy_tensorflow import tf

# config.data.preprocessing; IMAGENET ignores the recipes.
AUGMENT, IMAGENET = PREPROCESSING = ("augment", "imagenet")

_EMPTY, _RATIOS = 0, (1, 2, 4, 8)  # a slot without an image; by what the decoder downscales

# {name: (dtype, shape of a row)} of what Python passes to the graph: one row per image slot, B * N.
PARTS = {
    "jpeg": ("string", []),
    "way": ("int32", []),  # _EMPTY, or 1 + the recipe's halvings
    "crop": ("int32", [4]),
    "flip": ("bool", []),
    "colour": ("float32", [3, 3]),
    "offset": ("float32", []),
}


def parts(
    jpegs_M: np.ndarray, recipe: Recipe, image_mask_BxN: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Arranges the M images of a batch, object[M] of bytes, by slot: the arrays of `PARTS`.

    The images and the recipe have the order of the mask's True entries.
    """

    def spread(values: np.ndarray, empty: object) -> np.ndarray:
        out = np.full((image_mask_BxN.size, *values.shape[1:]), empty, values.dtype)
        out[image_mask_BxN.ravel()] = values
        return out

    return (
        spread(jpegs_M, b""),
        spread(recipe.halvings + np.int32(1), _EMPTY),
        spread(recipe.crop, 0),
        spread(recipe.flip, False),
        # Transposed, since the graph computes RGB @ colour.
        spread(recipe.colour.transpose(0, 2, 1), 0),
        spread(recipe.offset, 0),
    )


def images(spec: BatchSpec, preprocessing: str, *parts_S: tf.Tensor) -> tf.Tensor:
    """uint8[B, N, H, W, 3] from the arrays of `PARTS`, zero where a slot has no image."""
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
            lambda image: _image(*image, side),
            tuple(shaped),
            fn_output_signature=tf.TensorSpec([side, side, 3], tf.uint8),
        )
    return tf.reshape(pixels, [spec.batch_size, spec.images, side, side, 3])


def _image(
    jpeg: tf.Tensor,
    way: tf.Tensor,
    crop: tf.Tensor,
    flip: tf.Tensor,
    colour: tf.Tensor,
    offset: tf.Tensor,
    side: int,
) -> tf.Tensor:
    """uint8[side, side, 3]."""

    def finish(image: tf.Tensor) -> tf.Tensor:
        pixels = tf.reshape(tf.image.resize(image, [side, side]), [side * side, 3])
        # Plus one half, since the cast truncates.
        pixels = tf.clip_by_value(tf.matmul(pixels, colour) + (offset + 0.5), 0, 255)
        upright = tf.reshape(tf.cast(pixels, tf.uint8), [side, side, 3])
        return tf.cond(flip, lambda: tf.reverse(upright, [1]), lambda: upright)

    def decoder(ratio: int) -> Callable[[], tf.Tensor]:
        return lambda: finish(tf.io.decode_and_crop_jpeg(jpeg, crop, channels=3, ratio=ratio))

    empty = functools.partial(tf.zeros, [side, side, 3], tf.uint8)
    return tf.switch_case(way, [empty, *map(decoder, _RATIOS)])
