"""The processed layout: <split>.src.txt, sent_num.npy, offsets.npy and vectors in .mmap files.

Vectors are in the order of the lines of src.txt. An episode is `sent_num` lines from `offsets` on.
"""

from __future__ import annotations

import pathlib

import numpy as np

from igerg_jax.data.builders.openvidial import raw
from igerg_jax.data.builders.source import NO_IMAGE
from igerg_jax.errors import UserError

FEATURES = 1000
OBJECTS, OBJECT_FEATURES = 20, 2048


class VectorTurns(raw.EpisodeTurns):
    """A split of the processed layout.

    Args:
      kind: "features": the frame's vector; "objects": the mean over its detected objects. A frame
        without objects counts as no image.

    Raises:
      UserError: a file is missing, or does not have as many turns as the text.
    """

    def __init__(self, folder: pathlib.Path, split: str, kind: str):
        lines = raw.Lines(folder / f"{split}.src.txt")
        lengths, starts = (_array(folder / f"{split}.{n}.npy") for n in ("sent_num", "offsets"))
        fit = lengths.shape == starts.shape and (lengths >= 0).all() and (starts >= 0).all()
        if not fit or (starts + lengths).max(initial=0) > len(lines):
            raise UserError(
                f"'{folder}', {split}: sent_num.npy and offsets.npy do not fit the {len(lines)} "
                "lines of src.txt"
            )
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        super().__init__(lines, np.repeat(starts, lengths) + within, lengths)
        total = len(lines)
        if kind == "features":
            path = folder / f"{split}.features.mmap"
            self._vectors, self._mask = _map(path, np.float32, (total, FEATURES)), None
        else:
            shape = (total, OBJECTS)
            self._vectors = _map(
                folder / f"{split}.objects.mmap", np.float32, (*shape, OBJECT_FEATURES)
            )
            self._mask = _map(folder / f"{split}.objects_mask.mmap", np.bool_, shape)

    @property
    def image_keys(self) -> np.ndarray:
        if self._mask is None:
            return self.ids
        return np.where(self._mask.any(axis=1)[self.ids], self.ids, NO_IMAGE)

    def features(self, i: int) -> np.ndarray:
        turn_id = int(self.ids[i])
        if self._mask is None:
            return np.array(self._vectors[turn_id])
        real = self._mask[turn_id]
        if not real.any():
            return np.zeros(OBJECT_FEATURES, np.float32)
        return self._vectors[turn_id][real].mean(axis=0)


def _array(path: pathlib.Path) -> np.ndarray:
    try:
        return np.load(path).astype(np.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}") from error


def _map(path: pathlib.Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    if not path.exists():
        raise UserError(f"'{path}' is missing")
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if path.stat().st_size != expected:
        raise UserError(
            f"'{path}' has {path.stat().st_size} bytes; the {shape[0]} lines of src.txt need "
            f"{expected}"
        )
    return np.memmap(path, dtype, "r", shape=shape) if expected else np.zeros(shape, dtype)
