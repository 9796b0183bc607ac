"""Batches for training, evaluation and one-off generation.

Turns are read by random access in Python; tf.data decodes, crops, colours and prefetches. Nothing
has a state: the batch of step k is made from k alone, so resuming is starting at k.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from igerg_jax.batch import UNKNOWN, BatchSpec
from igerg_jax.data import augment, order, store, windows
from igerg_jax.data.images import as_jpeg
from igerg_jax.data.prepared import Prepared, Split
from igerg_jax.data.tokenizer import Tokenizer
from igerg_jax.errors import UserError

# What crosses from Python into the graph: the batch without pixels, then these.
_IMAGE_PARTS = {
    "jpeg": tf.string,  # [M]
    "crop": tf.int32,  # [M, 4]
    "halvings": tf.int32,  # [M]
    "colour": tf.float32,  # [M, 3, 3]
    "offset": tf.float32,  # [M]
    "place": tf.int64,  # [M], row * N + slot
    "upright": tf.int64,  # [], how many come before those to mirror
}


def example_ids(
    config: ConfigDict, num_windows: int, step: int, rows_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (windows, positions), int64[B'] each: those rows of step `step`'s batch."""
    positions_b = order.positions(step, config.train.batch_size)[rows_b]
    return order.examples_at(config.seed, positions_b, num_windows), positions_b


def train_batches(
    prepared: Prepared,
    config: ConfigDict,
    start_step: int,
    rows_b: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's rows of the batch of steps start_step, start_step + 1, ... forever.

    Args:
      prepared: the dataset; config.data.train_split of it is read.
      config: `seed`, `train.batch_size` (of the global batch) and `data` are read.
      start_step: the first step to yield; any step costs the same.
      rows_b: int64[B'], which rows of the global batch (`igerg_jax.sharding.process_rows`).

    Returns:
      An iterator over dicts of arrays: the contract of igerg_jax.batch with B' rows.

    Raises:
      UserError: no windows, or an unknown split.
    """
    split = _split(prepared, config, config.data.train_split)

    def fetch(step: np.ndarray) -> tuple[np.ndarray, ...]:
        ids_B, positions_B = example_ids(config, split.num_windows, int(step), rows_b)
        examples = [windows.read(split, int(i)) for i in ids_B]
        batch, images_BxN = windows.pack(examples, config, prepared.tokenizer.special)
        row_M, slot_M = np.nonzero(batch["image_mask"])
        records_M = images_BxN[row_M, slot_M]
        recipe = augment.random_recipe(
            split.turns.image_height_width[records_M],
            config.seed,
            positions_B[row_M],
            slot_M,
            config.data.image_size,
            config.data.augment,
        )
        place_M = row_M * images_BxN.shape[1] + slot_M
        return _flatten(batch, split.turns.read_images(records_M), recipe, place_M)

    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    return _iterate(steps, fetch, BatchSpec.of(config.data, len(rows_b)), config)


def eval_batches(
    prepared: Prepared,
    split: str,
    config: ConfigDict,
    rows_b: np.ndarray,
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yields (batch, num_real) over a split's first windows, in order, without augmentation.

    The windows are the first config.evaluate.examples of the split, 0 = all; otherwise as
    `window_batches`.
    """
    chosen = _split(prepared, config, split)
    total = min(config.evaluate.examples or chosen.num_windows, chosen.num_windows)
    return window_batches(prepared, split, np.arange(total), config, rows_b)


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
        row_M, slot_M = np.nonzero(batch["image_mask"])
        records_M = images_BxN[row_M, slot_M]
        recipe = augment.plain_recipe(
            chosen.turns.image_height_width[records_M], config.data.image_size
        )
        place_M = row_M * images_BxN.shape[1] + slot_M
        return _flatten(batch, chosen.turns.read_images(records_M), recipe, place_M)

    steps = tf.data.Dataset.range(-(-len(window_ids) // size))
    batches = _iterate(steps, fetch, BatchSpec.of(config.data, len(rows_b)), config)
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
    _check_pixels(config)
    files = [*(file for _, file in turns), response_image]
    encoded = [None if file is None else _read_image(pathlib.Path(file)) for file in files]
    example = windows.Example(
        tokens=[*(np.asarray(tokenizer.encode(text), np.int32) for text, _ in turns), ()],
        emotions=[UNKNOWN] * len(files),
        images=[store.NO_IMAGE if e is None else slot for slot, e in enumerate(encoded)],
    )
    batch, images_1xN = windows.pack([example], config, tokenizer.special)
    batch["response"][:] = tokenizer.special.pad
    shown_M = images_1xN[batch["image_mask"]]
    sizes_Mx2 = np.array([encoded[i][1] for i in shown_M], np.int64).reshape(-1, 2)
    recipe = augment.plain_recipe(sizes_Mx2, config.data.image_size)
    parts = _flatten(batch, [encoded[i][0] for i in shown_M], recipe, shown_M)
    spec = BatchSpec.of(config.data, 1)
    return {name: array.numpy() for name, array in _finish(spec, *parts).items()}


def _split(prepared: Prepared, config: ConfigDict, name: str) -> Split:
    _check_pixels(config)
    split = prepared.split(name)
    if split.num_windows == 0:
        raise UserError(f"split '{name}' of '{prepared.dataset}' has no turn that answers another")
    return split


def _check_pixels(config: ConfigDict) -> None:
    if config.data.feature_dim:
        raise UserError(
            f"config.data.feature_dim={config.data.feature_dim}, but dataset "
            f"'{config.data.dataset}' has images, not precomputed features: set it to 0"
        )


def _read_image(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
    try:
        return as_jpeg(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not an image that Pillow can read"
        raise UserError(f"cannot read the image '{path}': {reason}") from error


def _text_names(spec: BatchSpec) -> list[str]:
    return [name for name in spec.shapes() if name != "images"]


def _flatten(
    batch: dict[str, np.ndarray], jpegs: list[bytes], recipe: augment.Recipe, place_M: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The batch's arrays in the contract's order, then `_IMAGE_PARTS`."""
    # Images to mirror go last, so that they are one slice of the decoded ones.
    by_flip = np.argsort(recipe.flip, kind="stable")
    of_images = (
        np.array(jpegs, object),
        recipe.crop,
        recipe.halvings,
        recipe.colour,
        recipe.offset,
        place_M.astype(np.int64),
    )
    upright = np.int64(len(by_flip) - recipe.flip.sum())
    return (*batch.values(), *(part[by_flip] for part in of_images), upright)


def _iterate(
    steps: tf.data.Dataset, fetch: Callable, spec: BatchSpec, config: ConfigDict
) -> Iterator[dict[str, np.ndarray]]:
    shapes = spec.shapes()
    types = [tf.as_dtype(shapes[name][1]) for name in _text_names(spec)] + [*_IMAGE_PARTS.values()]
    threads = config.data.read_threads
    plain = tf.autograph.experimental.do_not_convert  # no Python control flow: trace it as it is

    def read(step: tf.Tensor) -> list[tf.Tensor]:
        return tf.numpy_function(fetch, [step], types)

    dataset = steps.map(plain(read), num_parallel_calls=threads)
    dataset = dataset.map(plain(functools.partial(_finish, spec)), num_parallel_calls=threads)
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # the config says how many threads
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return dataset.prefetch(config.data.prefetch_batches).with_options(options).as_numpy_iterator()


def _finish(spec: BatchSpec, *parts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Gives the arrays their shapes and makes `images`, zero where there is none."""
    names = _text_names(spec)
    shapes = spec.shapes()
    batch = {
        name: tf.ensure_shape(part, shapes[name][0])
        for name, part in zip(names, parts, strict=False)
    }
    images = _images(spec, *parts[len(names) :])
    batch["images"] = tf.ensure_shape(images, shapes["images"][0])
    return batch


def _images(
    spec: BatchSpec,
    jpeg: tf.Tensor,
    crop: tf.Tensor,
    halvings: tf.Tensor,
    colour: tf.Tensor,
    offset: tf.Tensor,
    place: tf.Tensor,
    upright: tf.Tensor,
) -> tf.Tensor:
    """uint8[B, N, H, W, 3] from `_IMAGE_PARTS`."""
    side, b, n = spec.image_size, spec.batch_size, spec.images
    pixels = tf.map_fn(
        lambda image: _decode(*image, side),
        (
            tf.ensure_shape(jpeg, [None]),
            tf.ensure_shape(crop, [None, 4]),
            tf.ensure_shape(halvings, [None]),
        ),
        fn_output_signature=tf.TensorSpec([side, side, 3], tf.float32),
    )
    flat = tf.reshape(pixels, [-1, side * side, 3])
    flat = tf.matmul(flat, tf.ensure_shape(colour, [None, 3, 3]), transpose_b=True)
    flat += tf.ensure_shape(offset, [None])[:, None, None]
    flat = tf.cast(tf.clip_by_value(tf.round(flat), 0, 255), tf.uint8)
    pixels = tf.reshape(flat, [-1, side, side, 3])
    pixels = tf.concat([pixels[:upright], tf.reverse(pixels[upright:], [2])], axis=0)
    images = tf.scatter_nd(
        tf.ensure_shape(place, [None])[:, None],
        tf.reshape(pixels, [-1, side * side * 3]),
        tf.constant([b * n, side * side * 3], tf.int64),
    )
    return tf.reshape(images, [b, n, side, side, 3])


def _decode(jpeg: tf.Tensor, crop: tf.Tensor, halvings: tf.Tensor, side: int) -> tf.Tensor:
    """float32[side, side, 3] in 0..255: the crop of a JPEG decoded 2**halvings times smaller."""

    def decoder(ratio: int) -> Callable[[], tf.Tensor]:
        return lambda: tf.io.decode_and_crop_jpeg(jpeg, crop, channels=3, ratio=ratio)

    image = tf.switch_case(halvings, [decoder(ratio) for ratio in (1, 2, 4, 8)])
    return tf.image.resize(image, [side, side])
