"""Pixels without TensorFlow: the same as with it, as batches too, and nothing of it imported."""

import dataclasses
import io
import itertools
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from igerg_jax.batch import BatchSpec
from igerg_jax.data import (
    augment,
    config_checks,
    input_graph,
    input_parts,
    input_threads,
    pipeline,
    prepare,
)
from igerg_jax.errors import UserError

SIDE = 32
# Height and width: odd ones, smaller ones, and for all of the decoder's scales.
SIZES = [(48, 48), (33, 70), (71, 66), (20, 9), (130, 131), (150, 280), (300, 257)]
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


class Pictures:
    """JPEGs of all kinds and sizes, and their recipes; the sixth slot has none."""

    def __init__(self, config, crop_min_area: float | None):
        every = list(itertools.product(KINDS, SIZES))
        self.sizes = np.array([size for _, size in every])
        made = [jpeg(*size, seed, **kind) for seed, (kind, size) in enumerate(every)]
        settings, places = config.data.augment, np.arange(len(every))
        settings.update(colour_jitter=0.4, erase_probability=0.3)
        if crop_min_area is None:
            self.recipe = augment.plain_recipe(self.sizes, SIDE)
        else:
            settings.crop_min_area = crop_min_area
            self.recipe = augment.random_recipe(self.sizes, 0, places, places, SIDE, settings)
        mask = np.ones((1, len(every) + 1), bool)
        mask[0, 5] = False
        self.parts = input_parts.parts(np.array(made, object), self.recipe, mask)
        spec = BatchSpec.of(config.data, 1)
        self.spec = dataclasses.replace(spec, images=mask.size, image_size=SIDE)

    def by(self, backend: str) -> np.ndarray:
        if backend == input_parts.TENSORFLOW:
            parts = map(tf.constant, self.parts)
            return input_graph.images(self.spec, input_parts.AUGMENT, *parts).numpy()[0]
        return input_threads.images(self.spec, input_parts.AUGMENT, backend, *self.parts)[0]


@pytest.mark.parametrize("crop_min_area", [0.3, 1.0, None])
def test_the_same_pixels_as_tensorflow_of_every_kind_of_jpeg(tiny_config, crop_min_area):
    """Crops, all four scales of the decoder, flips, colours, erased rectangles; None: evaluation.

    Other processors than the one these bits were equal on may round the product of colours
    differently.
    """
    pictures = Pictures(tiny_config, crop_min_area)
    if crop_min_area != 0.3:
        assert set(pictures.recipe.halvings) == {0, 1, 2, 3}
    expected, found = map(pictures.by, (input_parts.TENSORFLOW, input_parts.NUMPY))
    difference = np.abs(found.astype(int) - expected)
    allowed = 0 if crop_min_area is None else 1
    assert difference.max() <= allowed and difference.mean() < 1e-4
    assert not found[5].any() and found[6].any()


def test_opencv_is_two_levels_away(tiny_config):
    pytest.importorskip("cv2", reason="pip install -r requirements-opencv.txt")
    tiny_config.data.augment.colour_jitter = 0.2
    pictures = Pictures(tiny_config, 0.8)
    difference = np.abs(pictures.by(input_parts.OPENCV).astype(int) - pictures.by("numpy"))
    assert difference.max() <= 2 and difference.mean() < 0.4


def test_without_opencv_the_message_says_what_to_install(tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    input_threads.opencv.cache_clear()
    tiny_config.data.image_backend = "opencv"
    with pytest.raises(UserError, match=r"pip install -r requirements-opencv\.txt"):
        config_checks.check(tiny_config.data)


@pytest.mark.parametrize("preprocessing", input_parts.PREPROCESSING)
def test_batches_are_those_of_tensorflow_with_any_number_of_threads(tiny_config, preprocessing):
    """Also from a later step on."""
    prepared = prepare.prepare(tiny_config)
    rows = np.arange(tiny_config.train.batch_size)
    tiny_config.data.preprocessing = preprocessing

    def taken(backend, start, threads):
        tiny_config.data.update(image_backend=backend, read_threads=threads)
        return itertools.islice(pipeline.train_batches(prepared, tiny_config, start, rows), 4)

    expected = list(taken("tensorflow", 0, 2))
    for start, threads in ((0, 1), (0, 3), (2, 2)):
        for one, other in zip(expected[start:], taken("numpy", start, threads), strict=False):
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_what_a_reader_raises_comes_in_its_turn_and_no_thread_stays(tiny_config):
    tiny_config.data.update(read_threads=3, image_backend="numpy", feature_dim=1)
    spec = BatchSpec.of(tiny_config.data, 1)

    def fetch(step):
        if step >= 3:
            raise LookupError(f"step {step}")
        time.sleep(0.05 * (3 - step))  # the first ones end last
        return tuple(np.full(1, step) for _ in input_parts.given_names(spec))

    def ours():
        return [t for t in threading.enumerate() if t.name.startswith("input")]

    batches = input_threads.batches(range(10**18), {"": fetch}, spec, tiny_config)
    assert [int(next(batches)["context"][0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="step 3"):
        next(batches)
    left = input_threads.batches(range(2), {"": fetch}, spec, tiny_config)
    next(left)
    assert ours()
    left.close()
    for thread in ours():
        thread.join(10)
    assert not ours()


def test_reading_and_typed_images_import_no_tensorflow(tiny_config):
    """They would wait for it for seconds, and it may not be installed."""
    prepare.prepare(tiny_config)
    code = """
import json, sys
import numpy as np
from ml_collections import ConfigDict
from igerg_jax.data import pipeline, prepare
config = ConfigDict(json.loads(sys.argv[1]))
prepared = prepare.prepare(config)
batch = next(pipeline.train_batches(prepared, config, 0, np.arange(8)))
assert batch["images"].any()
assert pipeline.read_pixels(prepared.split("valid").window(0).response_image, config).any()
print([name for name in sys.modules if name.partition(".")[0].startswith("tensorflow")])
"""
    tiny_config.data.image_backend = "numpy"
    text = json.dumps(tiny_config.to_dict())
    command = [sys.executable, "-c", code, text]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr[-2000:]
