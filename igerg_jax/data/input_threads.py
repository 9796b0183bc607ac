"""The input pipeline without TensorFlow: threads that call the readers, decode and augment.

libjpeg-turbo decodes as in `igerg_jax.data.input_graph`, and either of two finishes the image:

    numpy   the same bits as TensorFlow: the same float32 operations in the same order
    opencv  in 8 bits after resizing and after the colours, so a few times quicker; up to two of
            255 levels away
"""

import collections
import concurrent.futures
import functools
import itertools
import math
import threading
import types
from collections.abc import Iterator, Mapping

import numpy as np
import simplejpeg
from ml_collections import ConfigDict

from igerg_jax.batch import BatchSpec
from igerg_jax.data.images import imagenet_crops
from igerg_jax.data.input_parts import (
    EMPTY,
    ERASED,
    IMAGENET,
    NUMPY,
    OPENCV,
    RATIOS,
    Fetch,
    given_names,
)
from igerg_jax.errors import UserError

# Pixels of a result that are made at a time: their float32 values stay in a core's cache, and BLAS
# does not start threads for so small a product.
_PIXELS = 25_000


def batches(
    steps: range, groups: Mapping[str, Fetch], spec: BatchSpec, config: ConfigDict
) -> Iterator[dict[str, np.ndarray]]:
    """`input_graph.batches`. Each thread makes whole batches, which are yielded in order."""

    def make(step: int) -> dict[str, np.ndarray]:
        return {
            f"{group}/{name}" if group else name: array
            for group, fetch in groups.items()
            for name, array in _finish(spec, config.data, fetch(step)).items()
        }

    threads = config.data.read_threads
    ahead = max(threads, config.data.prefetch_batches)
    pool = concurrent.futures.ThreadPoolExecutor(threads, "input")
    submitted = (pool.submit(make, np.int64(step)) for step in steps)
    pending = collections.deque(itertools.islice(submitted, ahead))
    try:
        while pending:
            first = pending.popleft()
            pending.extend(itertools.islice(submitted, 1))
            yield first.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _finish(
    spec: BatchSpec, data: ConfigDict, arrays: tuple[np.ndarray, ...]
) -> dict[str, np.ndarray]:
    """Decodes `images`, zero where `image_mask` is False."""
    names = given_names(spec)
    batch = dict(zip(names, arrays, strict=False))
    if not spec.feature_dim:
        parts_S = arrays[len(names) :]
        batch["images"] = images(spec, data.preprocessing, data.image_backend, *parts_S)
    return batch


def images(spec: BatchSpec, preprocessing: str, backend: str, *parts_S: np.ndarray) -> np.ndarray:
    """uint8[B, N, H, W, 3] from the arrays of `PARTS`, zero where a slot has no image."""
    side = spec.image_size
    if preprocessing == IMAGENET:
        pixels = imagenet_crops(side, parts_S[0])
    else:
        fill = {NUMPY: _fill, OPENCV: _fill_by_opencv}[backend]
        pixels = np.zeros((spec.batch_size * spec.images, side, side, 3), np.uint8)
        for out, row in zip(pixels, zip(*parts_S, strict=True), strict=True):
            jpeg, branch, (top, left, height, width), *recipe, erase = row
            if branch == EMPTY:
                continue
            image = _decoded(jpeg, RATIOS[branch - 1])
            fill(out, image[top : top + height, left : left + width], *recipe)
            top, left, height, width = erase
            out[top : top + height, left : left + width] = ERASED
    return pixels.reshape(spec.batch_size, spec.images, side, side, 3)


class _Scratch(threading.local):
    """A thread's memory for pixels: the system's new memory costs more than the arithmetic."""

    def __init__(self):
        self._flat: dict[str, np.ndarray] = {}

    def __call__(self, name: str, dtype: type, *shape: int) -> np.ndarray:
        """An array whose values are lost when the same name is asked for again."""
        size = math.prod(shape)
        if name not in self._flat or self._flat[name].size < size:
            self._flat[name] = np.empty(size, dtype)
        return self._flat[name][:size].reshape(shape)


_SCRATCH = _Scratch()


def _decoded(jpeg: bytes, ratio: int) -> np.ndarray:
    """uint8[H, W, 3] in scratch memory, downscaled by the decoder.

    The cosine transform is the fast one, as TensorFlow's.
    """
    height, width = simplejpeg.decode_jpeg_header(jpeg, strict=False)[:2]
    memory = _SCRATCH("decoded", np.uint8, height, width, 3)
    least = {"min_height": -(-height // ratio), "min_width": -(-width // ratio)}
    options = dict(fastdct=True, strict=False, buffer=memory)
    return simplejpeg.decode_jpeg(jpeg, **options, **(least if ratio > 1 else {}))


def _fill(
    out: np.ndarray, image: np.ndarray, flip: bool, colour: np.ndarray, offset: np.float32
) -> None:
    """Resizes a crop to uint8[side, side, 3], mirrors it and changes its colours."""
    height, width, _ = image.shape
    side = len(out)
    above, below, down = _neighbours(height, side)
    before, after, right = _columns(width, side, bool(flip))
    at_a_time = max(1, _PIXELS // side)
    for start in range(0, side, at_a_time):
        rows = slice(start, start + at_a_time)
        part = image[above[start] : below[rows][-1] + 1]
        values = _SCRATCH("values", np.float32, len(part), 3 * width)
        values.reshape(part.shape)[:] = part
        values = _between(values, before, after, right, 1)
        upper, lower = above[rows] - above[start], below[rows] - above[start]
        values = _between(values, upper, lower, down[rows, None], 0).reshape(-1, 3)
        coloured = _SCRATCH("coloured", np.float32, *values.shape)
        np.matmul(values, colour, out=coloured)
        coloured += offset + np.float32(0.5)  # plus one half, since the cast truncates
        out[rows] = np.clip(coloured, 0, 255, out=coloured).reshape(-1, side, 3)


def _fill_by_opencv(
    out: np.ndarray, image: np.ndarray, flip: bool, colour: np.ndarray, offset: np.float32
) -> None:
    """`_fill`, rounded to 8 bits in between."""
    cv2 = opencv()
    image = cv2.resize(image, out.shape[:2], interpolation=cv2.INTER_LINEAR)
    cv2.transform(image, np.column_stack([colour.T, np.full(3, offset)]), dst=out)
    if flip:
        cv2.flip(out, 1, dst=out)


@functools.cache
def opencv() -> types.ModuleType:
    """OpenCV, which uses no threads of its own. Raises UserError where it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "data.image_backend='opencv' needs OpenCV: pip install -r requirements-opencv.txt"
        ) from error
    cv2.setNumThreads(1)
    return cv2


@functools.lru_cache(1024)
def _neighbours(length: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64[side], int64[side], float32[side]: what bilinear resizing mixes, and how much.

    As `tf.image.resize` computes them: with half-pixel centres, in float32.
    """
    half = np.float32(0.5)
    at = (np.arange(side, dtype=np.float32) + half) * (np.float32(length) / np.float32(side)) - half
    lower = np.floor(at)
    places = (np.maximum(lower, 0), np.minimum(np.ceil(at), length - 1))
    return places[0].astype(np.int64), places[1].astype(np.int64), at - lower


@functools.lru_cache(1024)
def _columns(width: int, side: int, flip: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_neighbours` of the numbers of a row of RGB, mirrored or not: [3 * side] each."""
    before, after, right = _neighbours(width, side)
    step = -1 if flip else 1
    of_colours = np.arange(3)
    before, after = ((3 * p[::step, None] + of_colours).ravel() for p in (before, after))
    return before, after, np.repeat(right[::step], 3)


def _between(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, share: np.ndarray, axis: int
) -> np.ndarray:
    """The values at `low`, and a share of the way to those at `high`, in scratch memory."""
    shape = [*values.shape]
    shape[axis] = len(low)
    starts, ends = (_SCRATCH(f"{end} {axis}", np.float32, *shape) for end in ("low", "high"))
    values.take(low, axis, starts, "clip")  # "raise" would copy the result
    values.take(high, axis, ends, "clip")
    ends -= starts
    ends *= share
    ends += starts
    return ends
