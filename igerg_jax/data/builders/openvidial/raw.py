"""The raw layout: <split>.origin.txt, <split>.dialogue.jsonl, <split>_images/<id>.jpg."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from igerg_jax.data.builders import source
from igerg_jax.errors import UserError


class Lines:
    """The lines of a text file by number, memory-mapped; blank ones count."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        empty = path.stat().st_size == 0
        self._bytes = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
        ends = np.flatnonzero(self._bytes == ord("\n"))
        if not empty and self._bytes[-1] != ord("\n"):
            ends = np.append(ends, len(self._bytes))
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        start = self._ends[number - 1] + 1 if number else 0
        return self._bytes[start : self._ends[number]].tobytes().decode(errors="replace").strip()


class EpisodeTurns(source.Turns):
    """Turns that are lines of a text file, in the order of the dialogues.

    Args:
      lines: the words.
      ids: int64[turns], each turn's line.
      lengths: int64[episodes], the number of turns of each episode.
    """

    def __init__(self, lines: Lines, ids: np.ndarray, lengths: np.ndarray):
        self._lines, self.ids = lines, ids
        lengths = lengths[lengths > 0]
        self._episode = np.repeat(np.arange(len(lengths)), lengths)
        self._start = np.cumsum(lengths) - lengths

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, i: int) -> dict:
        turn_id, episode = int(self.ids[i]), int(self._episode[i])
        place = i - int(self._start[episode])
        name = self.image_name(turn_id)
        return source.row(episode, place, self._lines[turn_id], image_id=name, turn_id=turn_id)

    def image_name(self, turn_id: int) -> str:
        return ""

    @property
    def emotions(self) -> np.ndarray:
        return np.full(len(self), -1, np.int8)

    @property
    def image_keys(self) -> np.ndarray:
        return self.ids


class RawTurns(EpisodeTurns):
    """A split of the raw layout. Raises UserError for inconsistent files."""

    def __init__(self, folder: pathlib.Path, split: str):
        lines = Lines(folder / f"{split}.origin.txt")
        episodes = _episodes(folder / f"{split}.dialogue.jsonl", len(lines))
        ids = np.concatenate([*episodes, np.zeros(0, np.int64)])
        super().__init__(lines, ids, np.array([len(e) for e in episodes], np.int64))
        self._folder, self._split = folder, split
        if not (folder / f"{split}_images").is_dir():
            raise UserError(f"there is no folder '{folder / f'{split}_images'}' of <id>.jpg")

    def image_name(self, turn_id: int) -> str:
        return f"{self._split}_images/{turn_id}.jpg"

    def image(self, i: int) -> bytes | None:
        return source.read_bytes(self._folder / self.image_name(int(self.ids[i])))


def _episodes(path: pathlib.Path, lines: int) -> list[np.ndarray]:
    """The turn ids of each episode, int64[turns]."""
    if not path.exists():
        raise UserError(f"'{path}' is missing: it says which turns make up a dialogue")
    episodes = []
    with path.open() as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                # An array at once: millions of Python integers take far more memory.
                episode = np.array([int(i) for i in json.loads(line)], np.int64)
            except (ValueError, TypeError) as error:
                raise UserError(f"'{path}', line {number}: not a list of turn ids") from error
            invalid = episode[(episode < 0) | (episode >= lines)]
            if len(invalid):
                raise UserError(
                    f"'{path}', line {number}: turn {invalid[0]} is no line of the {lines} of the "
                    "text"
                )
            episodes.append(episode)
    return episodes
