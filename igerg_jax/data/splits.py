"""A split of a prepared dataset as windows: some turns of an episode, and the turn after them."""

from __future__ import annotations

import dataclasses

import numpy as np

from igerg_jax.data import store


@dataclasses.dataclass(frozen=True)
class Window:
    """Some turns of an episode, oldest first, and the turn that responds to them.

    Images are JPEG bytes, or None for a turn without one.
    """

    turn_texts: tuple[str, ...]
    turn_emotions: tuple[int, ...]
    turn_images: tuple[bytes | None, ...]
    response_text: str
    response_emotion: int
    response_image: bytes | None


class Split:
    """A split's windows: one for every turn that follows another in its episode.

    If turns stand alone (faces, comments), every turn with an image or words is a window.

    Attributes:
      turns: the store with each turn once.
      standalone: whether the turns stand alone.
      response_turn: int64[windows], the last turn of each window, by its number in the store.
    """

    def __init__(self, name: str, turns: store.TurnStore, standalone: bool, context_turns: int):
        self.name = name
        self.turns = turns
        self.standalone = standalone
        self.response_turn = window_ends(turns, standalone)
        self.num_turns = len(self.turns)
        self.num_windows = len(self.response_turn)
        self._context_turns = 0 if standalone else context_turns

    def turn_range(self, i: int) -> tuple[int, int]:
        """Returns the numbers in the store of window i's first turn and of its response."""
        last = int(self.response_turn[i])
        return last - min(self._context_turns, int(self.turns.turn_in_episode[last])), last

    def window(self, i: int) -> Window:
        """Reads window i (0 <= i < num_windows)."""
        first, last = self.turn_range(i)
        numbers = range(first, last + 1)
        texts = [self.turns.text(n) for n in numbers]
        emotions = self.turns.emotion[first : last + 1].tolist()
        shown = [n for n in numbers if self.turns.image[n] != store.NO_IMAGE]
        shown = [] if self.turns.feature_dim else shown
        jpegs = dict(zip(shown, self.turns.read_images(self.turns.image[shown]), strict=True))
        images = [jpegs.get(n) for n in numbers]
        return Window(
            turn_texts=tuple(texts[:-1]),
            turn_emotions=tuple(emotions[:-1]),
            turn_images=tuple(images[:-1]),
            response_text=texts[-1],
            response_emotion=emotions[-1],
            response_image=images[-1],
        )


def window_ends(turns: store.TurnStore, standalone: bool) -> np.ndarray:
    """int64[windows]: the last turn of each window."""
    if standalone:
        return np.flatnonzero((turns.image != store.NO_IMAGE) | (turns.text_bytes() > 0))
    return np.flatnonzero(turns.turn_in_episode > 0)
