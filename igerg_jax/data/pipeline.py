"""Batches for training, evaluation and one-off generation.

Turns are read by random access in Python; `igerg_jax.data.input_graph` or, without TensorFlow,
`igerg_jax.data.input_threads` decodes the images and prefetches. There is no iterator state: the
batch of step k is a function of k, so resuming is starting at k.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.batch import UNKNOWN, BatchSpec, SpecialIds
from igerg_jax.data import (
    augment,
    image_gate,
    input_graph,
    input_parts,
    input_threads,
    length_buckets,
    mixtures,
    order,
    store,
    windows,
)
from igerg_jax.data.text_repair import repaired
from igerg_jax.data.tokenizers import Tokenizer
from igerg_jax.data.windows import Split
from igerg_jax.errors import UserError

if TYPE_CHECKING:
    from igerg_jax.data.prepared import Prepared  # which imports this module

Encoded = tuple[bytes, tuple[int, int]]  # JPEG bytes, (height, width)
Picture = str | pathlib.Path | bytes | np.ndarray  # a file, its bytes, or `read_pixels` of it


def example_ids(
    stream: mixtures.Stream, config: ConfigDict, step: int, rows_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the split, window and position, int64[B'] each, of rows of a step's batch."""
    positions_b = stream.step(step, config.train.batch_size).positions_B[rows_b]
    return *stream.at(positions_b), positions_b


def train_batches(
    prepared: Prepared, config: ConfigDict, start_step: int, rows_b: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's rows of the batches of steps start_step, start_step + 1, ... forever.

    Args:
      prepared: the dataset, with those of the mixtures; reads config.data.train_split of each.
      config: `seed`, `train.batch_size` (of the global batch) and `data` are read; it fits the
        data (`mixtures.check`).
      rows_b: int64[B'], rows of the global batch (`sharding.process_rows`).

    Returns:
      The contract of igerg_jax.batch with B' rows. The arrays of a mixture are prefixed by its
      name, as in "faces/images". With `data.length_buckets`, all of a step's arrays have the size
      of the largest bucket that one of its groups needs.

    Raises:
      UserError: no windows, or an unknown split.
    """
    special = prepared.tokenizer.special
    streams = mixtures.streams(prepared, config)
    sized = length_buckets.sized(config)

    def fetch(stream: mixtures.Stream, step: np.ndarray) -> tuple[np.ndarray, ...]:
        source_b, ids_b, positions_b = example_ids(stream, config, int(step), rows_b)
        pairs = zip(source_b, ids_b, strict=True)
        examples = [windows.read(stream.splits[s], int(i)) for s, i in pairs]
        size = config.train.batch_size
        bucket = max(each.step(int(step), size).bucket for each in streams.values())
        return _read_arrays(examples, stream.splits, source_b, positions_b, sized[bucket], special)

    groups = {group: functools.partial(fetch, stream) for group, stream in streams.items()}
    steps = range(start_step, np.iinfo(np.int64).max)
    return _batches(steps, groups, len(rows_b), config)


def window_batches(
    prepared: Prepared, split: str, window_ids: np.ndarray, config: ConfigDict, rows_b: np.ndarray
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yields (batch, num_real) of the given windows, in their order, without augmentation.

    Row r of batch k is window_ids[k * config.evaluate.batch_size + rows_b[r]]; int64[B'] rows_b
    ascend. Every process yields equally many batches. Rows past the last id are padding: images
    masked, labels UNKNOWN, context and response PAD. `num_real` counts the other rows, which come
    first. With `data.length_buckets`, a batch has the size of the largest bucket among its windows.
    The config fits the split (`mixtures.check_splits`). Raises UserError as `train_batches`.
    """
    chosen = mixtures.nonempty_split(prepared, split)
    bucket_W, sized = length_buckets.numbers(chosen, config), length_buckets.sized(config)
    size, source_b = config.evaluate.batch_size, np.zeros(len(rows_b), np.int64)

    def ids_of(step: int) -> np.ndarray:
        places = order.positions(step, size)[rows_b]
        return window_ids[places[places < len(window_ids)]]

    def fetch(step: np.ndarray) -> tuple[np.ndarray, ...]:
        examples = [windows.read(chosen, int(i)) for i in ids_of(int(step))]
        examples += [None] * (len(rows_b) - len(examples))
        bucket = bucket_W[window_ids[step * size :][:size]].max()  # of the rows of all processes
        special = prepared.tokenizer.special
        return _read_arrays(examples, [chosen], source_b, None, sized[bucket], special)

    steps = range(-(-len(window_ids) // size))
    batches = _batches(steps, {"": fetch}, len(rows_b), config)
    return ((batch, len(ids_of(step))) for step, batch in enumerate(batches))


def single_example(
    tokenizer: Tokenizer,
    config: ConfigDict,
    turns: Sequence[tuple[str, Picture | None]],
    response_image: Picture | None,
) -> dict[str, np.ndarray]:
    """Makes a batch of one row from a typed conversation: emotions UNKNOWN, response all PAD.

    Args:
      turns: (text, image or None), oldest first; the last context_turns of them are used.
      response_image: image of the turn to be generated, or None; withheld from the model if
        config.data.include_response_image is False.

    Raises:
      UserError: a turn without words, no turn at all, an image that can't be read, or a model
        that takes no turns (data.context_turns=0).
    """
    if not config.data.context_turns:
        raise UserError("data.context_turns=0: this model reads faces only, and can't respond")
    turns = list(turns)[-config.data.context_turns :]
    if not turns or any(not text.strip() for text, _ in turns):
        raise UserError("the context is empty: give at least one turn, and words in every turn")
    check_pixels(config)
    pictures = [*(picture for _, picture in turns), response_image]
    pixels = [None if picture is None else read_pixels(picture, config) for picture in pictures]
    example = windows.Example(
        tokens=[*(np.asarray(tokenizer.encode(repaired(text)), np.int32) for text, _ in turns), ()],
        emotions=[UNKNOWN] * len(pictures),
        images=[store.NO_IMAGE if p is None else slot for slot, p in enumerate(pixels)],
    )
    batch, slots_1xN = windows.pack([example], config, tokenizer.special)
    images = np.zeros(*_spec(config, 1).shapes()["images"])
    for slot in np.flatnonzero(batch["image_mask"][0]):
        images[0, slot] = pixels[slots_1xN[0, slot]]
    response = np.full_like(batch["response"], tokenizer.special.pad)
    return batch | {"images": images, "response": response}


def check_pixels(config: ConfigDict) -> None:
    """Raises UserError if the model reads precomputed features in place of images."""
    if feature_dim := config.data.feature_dim:
        raise UserError(
            f"data.feature_dim={feature_dim}: this model reads precomputed features, so it cannot "
            "read images"
        )


def read_pixels(picture: Picture, config: ConfigDict) -> np.ndarray:
    """uint8 [H, W, 3]: what the model is shown of an image, preprocessed as in evaluation.

    Args:
      picture: a file, the bytes of one, or pixels that this function has returned before.

    Raises:
      UserError: it can't be read, the pixels are not as many as the model takes, or the model
        reads precomputed features.
    """
    check_pixels(config)
    side = config.data.image_size
    if isinstance(picture, np.ndarray):
        if picture.shape != (side, side, 3) or picture.dtype != np.uint8:
            raise UserError(
                f"pixels must be uint8 [{side}, {side}, 3], not {picture.dtype} "
                f"{list(picture.shape)}"
            )
        return picture
    jpeg, size = _read_image(picture)
    recipe = augment.plain_recipe(np.array([size], np.int32), side)
    parts = input_parts.parts(np.array([jpeg], object), recipe, np.ones((1, 1), bool))
    spec = dataclasses.replace(_spec(config, 1), images=1)
    return input_threads.images(spec, config.data.preprocessing, input_parts.NUMPY, *parts)[0, 0]


def file_batches(
    files: Sequence[pathlib.Path], special: SpecialIds, config: ConfigDict
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of single images (N = 1) without words, preprocessed as in evaluation.

    Row r of batch k is file k * config.evaluate.batch_size + r. `image_mask` is False for a file
    that is not a readable image, and past the last one.
    """
    config = config.copy_and_resolve_references()
    config.data.update(context_turns=0, use_images=True, mixtures={})
    size = config.evaluate.batch_size

    def fetch(step: np.ndarray) -> tuple[np.ndarray, ...]:
        read = [_try_image(path) for path in files[int(step) * size :][:size]]
        examples = [
            windows.Example([()], [UNKNOWN], [store.NO_IMAGE if image is None else row], True)
            for row, image in enumerate(read)
        ] + [None] * (size - len(read))
        return _encoded_arrays(examples, read, config, special)

    steps = range(-(-len(files) // size))
    return _batches(steps, {"": fetch}, size, config)


def _batches(
    steps: range, groups: Mapping[str, input_parts.Fetch], batch_size: int, config: ConfigDict
) -> Iterator[dict[str, np.ndarray]]:
    """Those of the config's back end; `batch_size` is a group's."""
    by_tensorflow = config.data.image_backend == input_parts.TENSORFLOW
    backend = input_graph if by_tensorflow else input_threads
    return backend.batches(steps, groups, _spec(config, batch_size), config)


def _spec(config: ConfigDict, batch_size: int) -> BatchSpec:
    """The sizes of one group's batch."""
    return dataclasses.replace(BatchSpec.of(config.data, batch_size), groups=())


def _read_arrays(
    examples: Sequence[windows.Example | None],
    splits: Sequence[Split],
    source_B: np.ndarray,
    positions_B: np.ndarray | None,
    config: ConfigDict,
    special: SpecialIds,
) -> tuple[np.ndarray, ...]:
    """Reads the images, or vectors, of windows; returns the arrays of an `input_parts.Fetch`.

    Args:
      source_B: number of each window's split.
      positions_B: of the windows in the order of training; None = no augmentation.
    """
    batch, images_BxN = windows.pack(examples, config, special)
    row_M, slot_M = np.nonzero(batch["image_mask"])
    record_M, source_M = images_BxN[row_M, slot_M], source_B[row_M]
    by_split = [(splits[s].turns, np.flatnonzero(source_M == s)) for s in np.unique(source_M)]
    data = config.data
    if data.feature_dim:
        features_BxNxF = np.zeros((*images_BxN.shape, data.feature_dim), np.float32)
        for turns, at in by_split:
            features_BxNxF[row_M[at], slot_M[at]] = turns.read_features(record_M[at])
        return features_BxNxF, *batch.values()
    jpegs_M, sizes_Mx2 = np.empty(len(row_M), object), np.zeros((len(row_M), 2), np.int32)
    for turns, at in by_split:
        jpegs_M[at] = turns.read_images(record_M[at])
        sizes_Mx2[at] = turns.image_height_width[record_M[at]]
    if positions_B is None or data.preprocessing != input_parts.AUGMENT:
        recipe = augment.plain_recipe(sizes_Mx2, data.image_size)
    else:
        recipe = augment.random_recipe(
            sizes_Mx2, config.seed, positions_B[row_M], slot_M, data.image_size, data.augment
        )
    return *batch.values(), *input_parts.parts(jpegs_M, recipe, batch["image_mask"])


def _encoded_arrays(
    example_rows: Sequence[windows.Example | None],
    encoded: Sequence[Encoded | None],
    config: ConfigDict,
    special: SpecialIds,
) -> tuple[np.ndarray, ...]:
    """`_read_arrays` of windows whose images are indices in `encoded`."""
    batch, images_BxN = windows.pack(example_rows, config, special)
    shown = [encoded[i] for i in images_BxN[batch["image_mask"]]]
    sizes_Mx2 = np.array([size for _, size in shown], np.int32).reshape(-1, 2)
    jpegs_M = np.array([jpeg for jpeg, _ in shown], object)
    recipe = augment.plain_recipe(sizes_Mx2, config.data.image_size)
    return *batch.values(), *input_parts.parts(jpegs_M, recipe, batch["image_mask"])


def _read_image(picture: str | pathlib.Path | bytes) -> Encoded:
    if not isinstance(picture, bytes):
        return image_gate.file_as_jpeg(pathlib.Path(picture))
    try:
        return image_gate.as_jpeg(picture)
    except image_gate.BrokenImage as error:
        raise UserError(f"cannot read the image, give a PNG or JPEG file: {error}") from error


def _try_image(path: pathlib.Path) -> Encoded | None:
    try:
        return image_gate.file_as_jpeg(path)
    except UserError:
        return None
