"""Batches from what Python reads: tf.data calls the readers, decodes the images and prefetches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.batch import BatchSpec
from igerg_jax.data import decode
from igerg_jax.data.lazy_tensorflow import tf

# A step's number -> the batch's arrays in the contract's order, but instead of `images` those of
# `decode.PARTS` at the end.
Fetch = Callable[[np.ndarray], tuple[np.ndarray, ...]]


def batches(
    steps: range, groups: Mapping[str, Fetch], spec: BatchSpec, config: ConfigDict
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of some steps, as dicts of arrays (`igerg_jax.batch`).

    Args:
      steps: which, in order.
      groups: {group: its reader}; arrays are named "<group>/<name>", those of group "" "<name>".
        What a reader raises is raised here.
      spec: the sizes of each group's batch.
      config: `data` is read: preprocessing, read_threads, prefetch_batches.
    """
    failures: list[Exception] = []

    def join(batches: dict[str, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        return {
            f"{group}/{name}" if group else name: array
            for group, batch in batches.items()
            for name, array in batch.items()
        }

    numbers = tf.data.Dataset.range(steps.start, steps.stop)
    by_group = {
        name: _dataset(numbers, fetch, spec, config, failures) for name, fetch in groups.items()
    }
    dataset = tf.data.Dataset.zip(by_group).map(_untraced(join))
    threads = config.data.read_threads
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # the config sets the number of threads
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.prefetch(config.data.prefetch_batches).with_options(options)
    return _raising(dataset.as_numpy_iterator(), failures)


def single_batch(
    parts: tuple[np.ndarray, ...], spec: BatchSpec, preprocessing: str
) -> dict[str, np.ndarray]:
    """Returns the one batch that a `Fetch` has returned the arrays of."""
    batch = _finish(spec, preprocessing, *parts)
    return {name: array.numpy() for name, array in batch.items()}


def _untraced(function: Callable) -> Callable:
    """Spares autograph the search for Python control flow, of which there is none."""
    return tf.autograph.experimental.do_not_convert(function)


def _dataset(
    steps: tf.data.Dataset,
    fetch: Fetch,
    spec: BatchSpec,
    config: ConfigDict,
    failures: list[Exception],
) -> tf.data.Dataset:
    """The batches of some steps, as dicts."""
    shapes = spec.shapes()
    types = [tf.as_dtype(shapes[name][1]) for name in _given_names(spec)]
    if not spec.feature_dim:
        types += [tf.as_dtype(dtype) for dtype, _ in decode.PARTS.values()]
    threads = config.data.read_threads

    def read(step: tf.Tensor) -> list[tf.Tensor]:
        return tf.numpy_function(functools.partial(_recording, fetch, failures), [step], types)

    dataset = steps.map(_untraced(read), num_parallel_calls=threads)
    finish = functools.partial(_finish, spec, config.data.preprocessing)
    return dataset.map(_untraced(finish), num_parallel_calls=threads)


def _recording(fetch: Fetch, failures: list[Exception], step: np.ndarray) -> tuple:
    """Calls `fetch`; keeps what it raises in `failures`, as TensorFlow passes on only its text."""
    try:
        return fetch(step)
    except Exception as error:
        failures.append(error)
        raise


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


def _given_names(spec: BatchSpec) -> list[str]:
    """The arrays that a `Fetch` returns as they are."""
    return [name for name in spec.shapes() if name != "images"]


def _finish(spec: BatchSpec, preprocessing: str, *parts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Sets the arrays' shapes and decodes `images`, zero where `image_mask` is False."""
    names = _given_names(spec)
    shapes = spec.shapes()
    batch = {
        name: tf.ensure_shape(part, shapes[name][0])
        for name, part in zip(names, parts, strict=False)
    }
    if not spec.feature_dim:
        images = decode.images(spec, preprocessing, *parts[len(names) :])
        batch["images"] = tf.ensure_shape(images, shapes["images"][0])
    return batch
