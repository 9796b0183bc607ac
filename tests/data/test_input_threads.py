"""Pixels without TensorFlow: the same bits, the same batches, and nothing of it imported."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from igerg_jax.batch import BatchSpec
from igerg_jax.data import augment, input_graph, input_parts, input_threads

SIDE = 32
# Height and width: crops that end within a pixel of chroma, none, all of the decoder's scales.
SIZES = [(48, 48), (33, 70), (71, 40), (64, 64), (20, 9), (130, 131), (150, 280), (300, 257)]
KINDS = [
    dict(subsampling="4:2:0"),
    dict(subsampling="4:2:2"),
    dict(subsampling="4:4:4"),
    dict(progressive=True),
    dict(quality=30),
    dict(mode="L"),
    dict(restart_marker_rows=1),
]


def jpeg(height: int, width: int, seed: int, mode: str = "RGB", **options) -> bytes:
    """A picture with edges in all colours."""
    rng, out = np.random.default_rng(seed), io.BytesIO()
    small = Image.fromarray(rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8))
    picture = small.resize((width, height), Image.Resampling.NEAREST).convert(mode)
    picture.save(out, "JPEG", **({"quality": 90} | options))
    return out.getvalue()


def spec_of(config, images: int) -> BatchSpec:
    spec = BatchSpec.of(config.data, 1)
    return dataclasses.replace(spec, images=images, image_size=SIDE)


def both(spec, parts, backend):
    graph = input_graph.images(spec, input_parts.AUGMENT, *map(tf.constant, parts))
    return graph.numpy()[0], input_threads.images(spec, input_parts.AUGMENT, backend, *parts)[0]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("crop_min_area", [0.3, 1.0])
def test_the_same_pixels_as_tensorflow_of_every_kind_of_jpeg(tiny_config, kind, crop_min_area):
    """Crops, all four scales of the decoder, flips, colours and erased rectangles."""
    sizes = np.array(SIZES * 4)
    jpegs = np.array([jpeg(*size, seed, **kind) for seed, size in enumerate(sizes)], object)
    settings = tiny_config.data.augment
    settings.update(crop_min_area=crop_min_area, colour_jitter=0.4, erase_probability=0.3)
    places = np.arange(len(sizes))
    recipe = augment.random_recipe(sizes, 0, places, places, SIDE, settings)
    assert set(recipe.halvings) == {0, 1, 2, 3} or crop_min_area < 1
    mask = np.ones((1, len(sizes) + 1), bool)
    mask[0, 5] = False  # a slot without an image
    parts = input_parts.parts(jpegs, recipe, mask)
    graph, threads = both(spec_of(tiny_config, mask.size), parts, input_parts.NUMPY)
    np.testing.assert_array_equal(threads, graph)
    assert not threads[5].any() and threads[6].any()
