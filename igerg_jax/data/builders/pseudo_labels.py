"""Pseudo-labels: emotions that a model predicts from images, for turns without a label.

They are in a folder of files labels-*.npz, each with `image` str[n], the `image_id` of turns (an
image's name relative to its dataset's folder), and `probability` float32[n, 7] in the order of
igerg_jax.batch.EMOTIONS.
"""

import functools
import pathlib

import numpy as np

from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN
from igerg_jax.data.builders.source import Turns
from igerg_jax.errors import UserError


class Labelled(Turns):
    """Turns whose missing emotions are replaced by pseudo-labels.

    A turn's `image_id` is looked up. With a confidence below `min_confidence` it stays UNKNOWN.
    """

    def __init__(self, turns: Turns, labels: dict[str, tuple[int, float]], min_confidence: float):
        self._turns, self._labels, self._min_confidence = turns, labels, min_confidence
        self.standalone = turns.standalone
        self.passed_over, self.remarks = turns.passed_over, turns.remarks

    def __len__(self) -> int:
        return len(self._turns)

    def row(self, i: int) -> dict:
        row = self._turns.row(i)
        if row["emotion"] == UNKNOWN:
            emotion, confidence = self._labels.get(row["image_id"], (UNKNOWN, 0.0))
            row = row | {"emotion": emotion if confidence >= self._min_confidence else UNKNOWN}
        return row

    @property
    def image_keys(self) -> np.ndarray:
        return self._turns.image_keys

    def image(self, i: int) -> bytes | None:
        return self._turns.image(i)

    def features(self, i: int) -> np.ndarray:
        return self._turns.features(i)


@functools.lru_cache(maxsize=2)
def read(folder: pathlib.Path) -> dict[str, tuple[int, float]]:
    """Returns {image name: (most probable emotion, its probability)} of a folder of .npz files.

    Raises:
      UserError: there are no files, or one has another format.
    """
    paths = sorted(folder.glob("labels-*.npz"))
    if not paths:
        raise UserError(
            f"config.data.labels.path '{folder}' has no labels-*.npz "
            "(igerg_jax/data/builders/pseudo_labels.py says what they hold)"
        )
    labels = {}
    for path in paths:
        try:
            with np.load(path) as part:
                names, p_Nx7 = part["image"], part["probability"]
            if p_Nx7.shape != (len(names), NUM_EMOTIONS):
                raise ValueError(f"probabilities of shape {p_Nx7.shape}")
        except Exception as error:  # of several types: NumPy's, those of archives and pickles
            raise UserError(f"'{path}' does not hold pseudo-labels: {error}") from error
        best = p_Nx7.argmax(axis=1)
        confidence = p_Nx7[np.arange(len(best)), best]
        pairs = zip(best.tolist(), confidence.tolist(), strict=True)
        labels |= zip(names.tolist(), pairs, strict=True)
    return labels
