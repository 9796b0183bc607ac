"""A split of a prepared dataset as windows: some turns of an episode, and the turn after them."""

from __future__ import annotations

import dataclasses

import numpy as np

from igerg_jax.data import store


@dataclasses.dataclass(frozen=True)
class Window:
    """Some turns of an episode and the turn that answers them.

    The previous turns come oldest first; an image is JPEG bytes, or None where a turn has none.
    """

    turn_texts: tuple[str, ...]
    turn_emotions: tuple[int, ...]
    turn_images: tuple[bytes | None, ...]
    response_text: str
    response_emotion: int
    response_image: bytes | None


class Split:
    """A split's windows: one for every turn that has a turn before it in its episode.

    Where turns stand alone (faces, comments), each that shows or says something is a window.

    Attributes:
      name: of the split.
      turns: the store that holds each turn once.
      standalone: the turns stand alone.
      response_turn: int64[windows], the turn (number in the store) that window i ends with.
      num_turns, num_windows: how many there are.
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
        """Returns (first, last) of window i: numbers in the store; `last` is the response."""
        last = int(self.response_turn[i])
        return last - min(self._context_turns, int(self.turns.turn_in_episode[last])), last

    def window(self, i: int) -> Window:
        """Reads window i (0 <= i < num_windows)."""
        first, last = self.turn_range(i)
        numbers = range(first, last + 1)
        texts = [self.turns.text(n) for n in numbers]
        emotions = [int(self.turns.emotion[n]) for n in numbers]
        shown = [n for n in numbers if self.turns.image[n] != store.NO_IMAGE]
        if self.turns.feature_dim:
            shown = []
        images = dict(zip(shown, self.turns.read_images(self.turns.image[shown]), strict=True))
        jpegs = [images.get(n) for n in numbers]
        return Window(
            turn_texts=tuple(texts[:-1]),
            turn_emotions=tuple(emotions[:-1]),
            turn_images=tuple(jpegs[:-1]),
            response_text=texts[-1],
            response_emotion=emotions[-1],
            response_image=jpegs[-1],
        )


def window_ends(turns: store.TurnStore, standalone: bool) -> np.ndarray:
    """int64[windows]: the turn that each window ends with."""
    if standalone:
        return np.flatnonzero((turns.image != store.NO_IMAGE) | (turns.text_bytes() > 0))
    return np.flatnonzero(turns.turn_in_episode > 0)
