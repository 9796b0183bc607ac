"""Dialogues that fit into memory as rows: what several text datasets are made of."""

from __future__ import annotations

import numpy as np

from igerg_jax.data.builders import source


class ListedTurns(source.Turns):
    """Turns from rows of `source.row`."""

    def __init__(self, rows: list[dict]):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, i: int) -> dict:
        return self._rows[i]

    @property
    def emotions(self) -> np.ndarray:
        return np.array([row["emotion"] for row in self._rows], np.int8)
