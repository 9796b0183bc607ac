"""Batches for training, evaluation and one-off generation.

Turns are read by random access in Python; `igerg_jax.data.input_graph` decodes the images and
prefetches. There is no iterator state: the batch of step k is a function of k, so resuming is
starting at k.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.batch import UNKNOWN, BatchSpec, SpecialIds
from igerg_jax.data import augment, input_graph, mixtures, order, store, windows
from igerg_jax.data.batch_images import StoredImages, with_encoded
from igerg_jax.data.decode import AUGMENT, PREPROCESSING
from igerg_jax.data.images import as_jpeg
from igerg_jax.data.splits import Split
from igerg_jax.data.tokenizers import Tokenizer
from igerg_jax.errors import UserError

if TYPE_CHECKING:
    from igerg_jax.data.prepared import Prepared  # which imports this module


def example_ids(
    stream: mixtures.Stream, config: ConfigDict, step: int, rows_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the split, window and position, int64[B'] each, of rows of a step's batch."""
    positions_b = order.positions(step, config.train.batch_size)[rows_b]
    return *stream.at(positions_b), positions_b


def train_batches(
    prepared: Prepared,
    config: ConfigDict,
    start_step: int,
    rows_b: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's rows of the batches of steps start_step, start_step + 1, ... forever.

    Args:
      prepared: the dataset, with those of the mixtures; reads config.data.train_split of each.
      config: `seed`, `train.batch_size` (of the global batch) and `data` are read.
      start_step: the first step to yield; the cost does not depend on it.
      rows_b: int64[B'], rows of the global batch (`sharding.process_rows`).

    Returns:
      An iterator over dicts of arrays: the contract of igerg_jax.batch with B' rows. The arrays of
      a mixture are prefixed by its name, as in "faces/images".

    Raises:
      UserError: no windows, or an unknown split.
    """

    def fetch(stream: mixtures.Stream, step: np.ndarray) -> tuple[np.ndarray, ...]:
        source_B, ids_B, positions_B = example_ids(stream, config, int(step), rows_b)
        splits = stream.splits
        examples = [windows.read(splits[s], int(i)) for s, i in zip(source_B, ids_B, strict=True)]
        batch, images_BxN = windows.pack(examples, config, prepared.tokenizer.special)
        images = StoredImages.of(splits, source_B, images_BxN)
        if config.data.feature_dim:
            return images.with_vectors(batch, config.data.feature_dim)
        return images.with_jpegs(batch, _train_recipe(images, positions_B, config))

    groups = {}
    for group, stream in mixtures.streams(prepared, config).items():
        for split in stream.splits:
            _check_layout(split, config)
        groups[group] = functools.partial(fetch, stream)
    steps = range(start_step, np.iinfo(np.int64).max)
    return input_graph.batches(steps, groups, _spec(config, len(rows_b)), config)


def window_batches(
    prepared: Prepared,
    split: str,
    window_ids: np.ndarray,
    config: ConfigDict,
    rows_b: np.ndarray,
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yields (batch, num_real) of the given windows, in their order, without augmentation.

    Row r of batch k is window_ids[k * config.evaluate.batch_size + rows_b[r]]; int64[B'] rows_b
    ascend. Every process yields equally many batches. Rows past the last id are padding: images
    masked, labels UNKNOWN, context and response PAD. `num_real` counts the other rows, which come
    first.

    Raises:
      UserError: as `train_batches`.
    """
    chosen = _split(prepared, config, split)
    size = config.evaluate.batch_size

    def ids_of(step: int) -> np.ndarray:
        places = order.positions(step, size)[rows_b]
        return window_ids[places[places < len(window_ids)]]

    def fetch(step: np.ndarray) -> tuple[np.ndarray, ...]:
        examples = [windows.read(chosen, int(i)) for i in ids_of(int(step))]
        padding = [None] * (len(rows_b) - len(examples))
        batch, images_BxN = windows.pack(examples + padding, config, prepared.tokenizer.special)
        images = StoredImages.of([chosen], np.zeros(len(rows_b), np.int64), images_BxN)
        if config.data.feature_dim:
            return images.with_vectors(batch, config.data.feature_dim)
        return images.with_jpegs(batch, _plain_recipe(images, config))

    steps = range(-(-len(window_ids) // size))
    batches = input_graph.batches(steps, {"": fetch}, _spec(config, len(rows_b)), config)
    return ((batch, len(ids_of(step))) for step, batch in enumerate(batches))


def single_example(
    tokenizer: Tokenizer,
    config: ConfigDict,
    turns: Sequence[tuple[str, str | pathlib.Path | None]],
    response_image: str | pathlib.Path | None,
) -> dict[str, np.ndarray]:
    """Makes a batch of one row from a typed conversation.

    Args:
      tokenizer: of the checkpoint.
      config: `data` is read.
      turns: (text, image file or None), oldest first; the last context_turns of them are used.
      response_image: image file of the turn to be generated, or None; withheld from the model if
        config.data.include_response_image is False.

    Returns:
      A batch with B = 1: emotions UNKNOWN, response all PAD.

    Raises:
      UserError: a turn without words, no turn at all, or an image that can't be read.
    """
    turns = list(turns)[-config.data.context_turns :]
    if not turns or any(not text.strip() for text, _ in turns):
        raise UserError("the context is empty: give at least one turn, and words in every turn")
    if config.data.feature_dim:
        raise UserError(
            f"config.data.feature_dim={config.data.feature_dim}: this model reads precomputed "
            "features, so it cannot look at image files"
        )
    files = [*(file for _, file in turns), response_image]
    encoded = [None if file is None else _read_image(pathlib.Path(file)) for file in files]
    example = windows.Example(
        tokens=[*(np.asarray(tokenizer.encode(text), np.int32) for text, _ in turns), ()],
        emotions=[UNKNOWN] * len(files),
        images=[store.NO_IMAGE if e is None else slot for slot, e in enumerate(encoded)],
    )
    batch, images_1xN = windows.pack([example], config, tokenizer.special)
    batch["response"][:] = tokenizer.special.pad
    parts = with_encoded(batch, images_1xN, encoded, config.data.image_size)
    return input_graph.single_batch(parts, _spec(config, 1), config.data.preprocessing)


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
        batch, images_Bx1 = windows.pack(examples, config, special)
        return with_encoded(batch, images_Bx1, read, config.data.image_size)

    steps = range(-(-len(files) // size))
    return input_graph.batches(steps, {"": fetch}, _spec(config, size), config)


def _spec(config: ConfigDict, batch_size: int) -> BatchSpec:
    """The sizes of one group's batch."""
    return dataclasses.replace(BatchSpec.of(config.data, batch_size), groups=())


def _train_recipe(
    images: StoredImages, positions_B: np.ndarray, config: ConfigDict
) -> augment.Recipe:
    if config.data.preprocessing != AUGMENT:
        return _plain_recipe(images, config)
    return augment.random_recipe(
        images.height_width(),
        config.seed,
        positions_B[images.row_M],
        images.slot_M,
        config.data.image_size,
        config.data.augment,
    )


def _plain_recipe(images: StoredImages, config: ConfigDict) -> augment.Recipe:
    return augment.plain_recipe(images.height_width(), config.data.image_size)


def _split(prepared: Prepared, config: ConfigDict, name: str) -> Split:
    split = prepared.split(name)
    if split.num_windows == 0:
        raise UserError(f"split '{name}' of '{prepared.dataset}' has no turn that answers another")
    _check_layout(split, config)
    return split


def _check_layout(split: Split, config: ConfigDict) -> None:
    if config.data.preprocessing not in PREPROCESSING:
        raise UserError(
            f"config.data.preprocessing is '{config.data.preprocessing}'; there are: "
            f"{', '.join(PREPROCESSING)}"
        )
    wanted, found = config.data.feature_dim, split.turns.feature_dim
    if wanted == found or not (split.turns.image != store.NO_IMAGE).any():
        return
    if found:
        raise UserError(
            f"config.data.feature_dim={wanted}, but split '{split.name}' of the data has vectors "
            f"of {found} numbers: set config.data.feature_dim={found} and "
            "config.model.vision.kind='features'"
        )
    raise UserError(
        f"config.data.feature_dim={wanted}, but split '{split.name}' of the data has images, not "
        "precomputed features: set it to 0"
    )


def _read_image(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
    try:
        return as_jpeg(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not an image that Pillow can read"
        raise UserError(f"cannot read the image '{path}': {reason}") from error


def _try_image(path: pathlib.Path) -> tuple[bytes, tuple[int, int]] | None:
    try:
        return _read_image(path)
    except UserError:
        return None
