"""Pseudo-labels: emotions that a model predicts from images, for turns without a label.

They are in a folder of files labels-*.npz, each with `image` str[n], the `image_id` of turns (an
image's name relative to its dataset's folder), and `probability` float32[n, 7] in the order of
igerg_jax.batch.EMOTIONS.
"""

import collections
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from igerg_jax import storage
from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN
from igerg_jax.data.builders.source import Turns
from igerg_jax.errors import UserError


class Labels(NamedTuple):
    """What a folder of labels holds.

    Attributes:
      of: {image name: (most probable emotion, its probability)}.
      repeated: labels that a later one of the same image replaces.
    """

    of: dict[str, tuple[int, float]]
    repeated: int


def label(splits: Mapping[str, Turns], labels: Labels, min_confidence: float) -> dict[str, Turns]:
    """The splits with pseudo-labels; remarks on the labels themselves are made on the first."""
    all_turns = tuple(splits.values())
    return {
        split: Labelled(turns, labels, min_confidence, () if number else all_turns)
        for number, (split, turns) in enumerate(splits.items())
    }


def names(turns: Turns) -> Iterable[str]:
    """The image_id of each turn."""
    return (turns.row(i)["image_id"] for i in range(len(turns)))


class Labelled(Turns):
    """Turns whose missing emotions are replaced by pseudo-labels.

    A turn's `image_id` is looked up. With a confidence below `min_confidence` it stays UNKNOWN.

    Args:
      all_turns: of every split, to count the labels that no turn has; empty = does not count them.
    """

    def __init__(
        self, turns: Turns, labels: Labels, min_confidence: float, all_turns: Iterable[Turns]
    ):
        self._turns, self._labels, self._min_confidence = turns, labels, min_confidence
        self._all_turns = all_turns
        self.standalone = turns.standalone

    @property
    def passed_over(self) -> Mapping[str, int]:
        return self._turns.passed_over

    @functools.cached_property
    def remarks(self) -> Mapping[str, int]:
        """Found when somebody asks, for that takes all rows."""
        of, rows = self._labels.of, map(self._turns.row, range(len(self._turns)))
        doubtful = sum(
            row["emotion"] == UNKNOWN
            and row["image_id"] in of
            and not of[row["image_id"]][1] >= self._min_confidence
            for row in rows
        )
        found = {
            "turns have a pseudo-label below the minimum confidence; they stay unlabelled": doubtful
        }
        if any(name for turns in self._all_turns for name in names(turns)):
            unused = set(of)
            for turns in self._all_turns:
                unused.difference_update(names(turns))
            found["pseudo-labels are of images that no turn has"] = len(unused)
            found["pseudo-labels are replaced by a later one of the same image"] = (
                self._labels.repeated
            )
        return +collections.Counter({**self._turns.remarks, **found})

    def __len__(self) -> int:
        return len(self._turns)

    def row(self, i: int) -> dict:
        row = self._turns.row(i)
        if row["emotion"] == UNKNOWN:
            emotion, confidence = self._labels.of.get(row["image_id"], (UNKNOWN, 0.0))
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
def read(folder: pathlib.Path) -> Labels:
    """Reads a folder of .npz files. Of several labels of an image, the last counts.

    Raises:
      UserError: there are no files, or one has another format.
    """
    paths = sorted(folder.glob("labels-*.npz"))
    if not paths:
        raise UserError(
            f"config.data.labels.path '{folder}' has no labels-*.npz "
            "(igerg_jax/data/builders/pseudo_labels.py says what they hold)"
        )
    labels: dict[str, tuple[int, float]] = {}
    total = 0
    for path in paths:
        storage.check_regular_file(path)
        try:
            with np.load(path) as part:
                images, p_Nx7 = part["image"], part["probability"]
            if p_Nx7.shape != (len(images), NUM_EMOTIONS):
                raise ValueError(f"probabilities of shape {p_Nx7.shape}")
        except Exception as error:  # of several types: NumPy's, those of archives and pickles
            raise UserError(f"'{path}' does not hold pseudo-labels: {error}") from error
        best = p_Nx7.argmax(axis=1)
        confidence = p_Nx7[np.arange(len(best)), best]
        pairs = zip(best.tolist(), confidence.tolist(), strict=True)
        labels |= zip(images.tolist(), pairs, strict=True)
        total += len(images)
    return Labels(labels, total - len(labels))
