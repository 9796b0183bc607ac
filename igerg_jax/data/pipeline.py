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
from igerg_jax.data import augment, decode, input_graph, mixtures, order, store, windows
from igerg_jax.data.decode import AUGMENT, PREPROCESSING
from igerg_jax.data.images import as_jpeg
from igerg_jax.data.splits import Split
from igerg_jax.data.tokenizers import Tokenizer
from igerg_jax.errors import UserError

if TYPE_CHECKING:
    from igerg_jax.data.prepared import Prepared  # which offers what is here as its methods


def example_ids(
    stream: mixtures.Stream, config: ConfigDict, step: int, rows_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (splits, windows, positions), int64[B'] each: those rows of step `step`'s batch."""
    positions_b = order.positions(step, config.train.batch_size)[rows_b]
    return *stream.at(positions_b), positions_b


def train_batches(
    prepared: Prepared,
    config: ConfigDict,
    start_step: int,
    rows_b: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's rows of the batch of steps start_step, start_step + 1, ... forever.

    Args:
      prepared: the dataset, and those of the mixtures; config.data.train_split is read.
      config: `seed`, `train.batch_size` (of the global batch) and `data` are read.
      start_step: the first step to yield; any step costs the same.
      rows_b: int64[B'], which rows of the global batch (`sharding.process_rows`).

    Returns:
      An iterator over dicts of arrays: the contract of igerg_jax.batch with B' rows; the arrays
      of a mixture have its name before theirs, as in "faces/images".

    Raises:
      UserError: no windows, or an unknown split.
    """
    spec = dataclasses.replace(BatchSpec.of(config.data, len(rows_b)), groups=())

    def fetch(stream: mixtures.Stream, step: np.ndarray) -> tuple[np.ndarray, ...]:
        source_B, ids_B, positions_B = example_ids(stream, config, int(step), rows_b)
        splits = stream.splits
        examples = [windows.read(splits[s], int(i)) for s, i in zip(source_B, ids_B, strict=True)]
        batch, images_BxN = windows.pack(examples, config, prepared.tokenizer.special)
        shown = _Shown.of(splits, source_B, images_BxN)
        if spec.feature_dim:
            return shown.with_vectors(batch, spec)
        if config.data.preprocessing == AUGMENT:
            recipe = augment.random_recipe(
                shown.height_width(),
                config.seed,
                positions_B[shown.row_M],
                shown.slot_M,
                config.data.image_size,
                config.data.augment,
            )
        else:
            recipe = augment.plain_recipe(shown.height_width(), config.data.image_size)
        return _flatten(batch, shown.read(), recipe, shown.place_M)

    groups = {}
    for group, stream in mixtures.streams(prepared, config).items():
        for split in stream.splits:
            _check_layout(split, config)
        groups[group] = functools.partial(fetch, stream)
    return input_graph.batches(range(start_step, np.iinfo(np.int64).max), groups, spec, config)


def window_batches(
    prepared: Prepared,
    split: str,
    window_ids: np.ndarray,
    config: ConfigDict,
    rows_b: np.ndarray,
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yields (batch, num_real) over given windows, in the order given, without augmentation.

    Row r of batch k is window_ids[k * config.evaluate.batch_size + rows_b[r]]; int64[B'] rows_b
    ascend. Every process yields as many batches. Rows past the last id add nothing: images
    masked, labels UNKNOWN, context and response PAD; `num_real` counts the other rows, which come
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
        shown = _Shown.of([chosen], np.zeros(len(rows_b), np.int64), images_BxN)
        if spec.feature_dim:
            return shown.with_vectors(batch, spec)
        recipe = augment.plain_recipe(shown.height_width(), config.data.image_size)
        return _flatten(batch, shown.read(), recipe, shown.place_M)

    spec = dataclasses.replace(BatchSpec.of(config.data, len(rows_b)), groups=())
    batches = input_graph.batches(range(-(-len(window_ids) // size)), {"": fetch}, spec, config)
    return ((batch, len(ids_of(step))) for step, batch in enumerate(batches))


def single_example(
    tokenizer: Tokenizer,
    config: ConfigDict,
    turns: Sequence[tuple[str, str | pathlib.Path | None]],
    response_image: str | pathlib.Path | None,
) -> dict[str, np.ndarray]:
    """Makes a batch of one row from a conversation that someone typed.

    Args:
      tokenizer: of the checkpoint.
      config: `data` is read.
      turns: (text, image file or None), oldest first; the last context_turns of them are used.
      response_image: file of the image of the turn to be written, or None; not shown to the
        model when config.data.include_response_image is False.

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
    parts = _flatten_read(batch, images_1xN, encoded, config)
    spec = dataclasses.replace(BatchSpec.of(config.data, 1), groups=())
    return input_graph.single_batch(parts, spec, config.data.preprocessing)


def file_batches(
    files: Sequence[pathlib.Path], special: SpecialIds, config: ConfigDict
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of images that stand alone (N = 1), without words, read as in evaluation.

    Row r of batch k is file k * config.evaluate.batch_size + r. Where a file cannot be read as an
    image, and past the last one, `image_mask` is False.
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
        return _flatten_read(batch, images_Bx1, read, config)

    spec = BatchSpec.of(config.data, size)
    return input_graph.batches(range(-(-len(files) // size)), {"": fetch}, spec, config)


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


@dataclasses.dataclass(frozen=True)
class _Shown:
    """The M images of a batch: where each stands in it, and in which split's store it lies."""

    splits: Sequence[Split]
    row_M: np.ndarray
    slot_M: np.ndarray
    place_M: np.ndarray  # row * N + slot
    source_M: np.ndarray
    record_M: np.ndarray

    @classmethod
    def of(cls, splits: Sequence[Split], source_B: np.ndarray, images_BxN: np.ndarray) -> _Shown:
        row_M, slot_M = np.nonzero(images_BxN != store.NO_IMAGE)
        place_M = row_M * images_BxN.shape[1] + slot_M
        return cls(splits, row_M, slot_M, place_M, source_B[row_M], images_BxN[row_M, slot_M])

    def _by_split(self) -> Iterator[tuple[store.TurnStore, np.ndarray]]:
        for source in np.unique(self.source_M):
            yield self.splits[source].turns, np.flatnonzero(self.source_M == source)

    def height_width(self) -> np.ndarray:
        """int32[M, 2] pixels."""
        sizes_Mx2 = np.zeros((len(self.record_M), 2), np.int32)
        for turns, at in self._by_split():
            sizes_Mx2[at] = turns.image_height_width[self.record_M[at]]
        return sizes_Mx2

    def read(self) -> np.ndarray:
        """object[M]: JPEG bytes."""
        jpegs_M = np.empty(len(self.record_M), object)
        for turns, at in self._by_split():
            jpegs_M[at] = turns.read_images(self.record_M[at])
        return jpegs_M

    def with_vectors(self, batch: dict[str, np.ndarray], spec: BatchSpec) -> tuple[np.ndarray, ...]:
        """The batch's arrays in the contract's order, `features` being zero at masked slots."""
        features_BNxF = np.zeros((spec.batch_size * spec.images, spec.feature_dim), np.float32)
        for turns, at in self._by_split():
            features_BNxF[self.place_M[at]] = turns.read_features(self.record_M[at])
        features = features_BNxF.reshape(spec.batch_size, spec.images, spec.feature_dim)
        return tuple((batch | {"features": features})[name] for name in spec.shapes())


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


def _flatten(
    batch: dict[str, np.ndarray],
    jpegs_M: np.ndarray,
    recipe: augment.Recipe,
    place_M: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """The batch's arrays in the contract's order, then `decode.PARTS`."""
    slots = batch["image_mask"].size
    return (*batch.values(), *decode.parts(jpegs_M, recipe, place_M, slots))


def _flatten_read(batch, images_BxN, read, config) -> tuple[np.ndarray, ...]:
    """`_flatten` with images of `read` (JPEG bytes and size), to which images_BxN points."""
    shown = [read[i] for i in images_BxN[batch["image_mask"]]]
    sizes_Mx2 = np.array([size for _, size in shown], np.int32).reshape(-1, 2)
    recipe = augment.plain_recipe(sizes_Mx2, config.data.image_size)
    jpegs_M = np.array([jpeg for jpeg, _ in shown], object)
    return _flatten(batch, jpegs_M, recipe, np.flatnonzero(batch["image_mask"]))
