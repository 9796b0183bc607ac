"""The tf.data graph: calls the readers, decodes and augments the images, and prefetches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.batch import BatchSpec
from igerg_jax.data.images import imagenet_crops
from igerg_jax.data.input_parts import ERASED, IMAGENET, PARTS, RATIOS, Fetch, given_names
from igerg_jax.data.lazy_tensorflow import tf


def batches(
    steps: range, groups: Mapping[str, Fetch], spec: BatchSpec, config: ConfigDict
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of some steps, as dicts of arrays (`igerg_jax.batch`).

    Args:
      steps: which, in order.
      groups: {group: its reader}; arrays are named "<group>/<name>", those of group "" "<name>".
        What a reader raises is raised here.
      spec: the sizes of each group's batch; S and T may differ from batch to batch.
      config: `data` is read: preprocessing, read_threads, prefetch_batches.
    """
    failures: list[Exception] = []
    # Skips autograph: there is no Python control flow to convert.
    untraced = tf.autograph.experimental.do_not_convert

    def join(batches: dict[str, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        return {
            f"{group}/{name}" if group else name: array
            for group, batch in batches.items()
            for name, array in batch.items()
        }

    numbers = tf.data.Dataset.range(steps.start, steps.stop)
    threads = config.data.read_threads
    finish = untraced(functools.partial(_finish, spec, config.data.preprocessing))
    by_group = {}
    for name, fetch in groups.items():
        read = untraced(functools.partial(_read, fetch, spec, failures))
        fetched = numbers.map(read, num_parallel_calls=threads)
        by_group[name] = fetched.map(finish, num_parallel_calls=threads)
    dataset = tf.data.Dataset.zip(by_group).map(untraced(join))
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # the config sets the number of threads
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.prefetch(config.data.prefetch_batches).with_options(options)
    return _raising(dataset.as_numpy_iterator(), failures)


def _read(fetch: Fetch, spec: BatchSpec, failures: list[Exception], step: tf.Tensor) -> list:
    """Calls `fetch`; keeps what it raises in `failures`, as TensorFlow passes on only its text."""

    def recording(number: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return fetch(number)
        except Exception as error:
            failures.append(error)
            raise

    shapes = spec.shapes()
    types = [tf.as_dtype(shapes[name][1]) for name in given_names(spec)]
    if not spec.feature_dim:
        types += [tf.as_dtype(dtype) for dtype, _ in PARTS.values()]
    return tf.numpy_function(recording, [step], types)


def _raising(
    batches: Iterator[dict[str, np.ndarray]], failures: list[Exception]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields from `batches`; if that fails, raises the first of `failures`."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except tf.errors.OpError:
            if not failures:
                raise
            break
        yield batch
    # Outside `except`, and without the iterator: if an exception that ends the program refers to
    # the iterator, the interpreter does not exit.
    del batches
    raise failures[0]


def _finish(spec: BatchSpec, preprocessing: str, *parts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Decodes `images`, zero where `image_mask` is False."""
    names = given_names(spec)
    batch = dict(zip(names, parts, strict=False))
    if not spec.feature_dim:
        batch["images"] = images(spec, preprocessing, *parts[len(names) :])
    return batch


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
            lambda image: _image(side, *image),
            tuple(shaped),
            fn_output_signature=tf.TensorSpec([side, side, 3], tf.uint8),
        )
    return tf.reshape(pixels, [spec.batch_size, spec.images, side, side, 3])


def _image(side: int, jpeg, branch, crop, flip, colour, offset, erase) -> tf.Tensor:
    """uint8[side, side, 3] from a row of each of `PARTS`.

    Images are processed one by one: the float32 intermediates, several times the size of the
    result, stay in a core's cache and never exist for a whole batch.
    """

    def finish(image: tf.Tensor) -> tf.Tensor:
        pixels = tf.reshape(tf.image.resize(image, [side, side]), [side * side, 3])
        # Plus one half, since the cast truncates.
        pixels = tf.clip_by_value(tf.matmul(pixels, colour) + (offset + 0.5), 0, 255)
        upright = tf.reshape(tf.cast(pixels, tf.uint8), [side, side, 3])
        image = tf.cond(flip, lambda: tf.reverse(upright, [1]), lambda: upright)
        return tf.cond(erase[2] > 0, lambda: _erased(image, erase), lambda: image)

    def decoder(ratio: int) -> Callable[[], tf.Tensor]:
        # Not decode_and_crop_jpeg, which makes up the neighbours of the crop's outer colours, and
        # is no quicker.
        def cropped() -> tf.Tensor:
            image = tf.io.decode_jpeg(jpeg, channels=3, ratio=ratio)
            corner, size = tf.split(crop, 2)
            return finish(tf.slice(image, tf.pad(corner, [[0, 1]]), tf.concat([size, [3]], 0)))

        return cropped

    empty = functools.partial(tf.zeros, [side, side, 3], tf.uint8)
    return tf.switch_case(branch, [empty, *map(decoder, RATIOS)])


def _erased(image: tf.Tensor, erase: tf.Tensor) -> tf.Tensor:
    """uint8[side, side, 3] with the rectangle (top, left, height, width) turned grey."""
    places = tf.range(image.shape[0])
    rows, columns = ((places >= erase[i]) & (places < erase[i] + erase[i + 2]) for i in (0, 1))
    inside = rows[:, None] & columns[None]
    return tf.where(inside[..., None], tf.constant(ERASED, tf.uint8), image)
