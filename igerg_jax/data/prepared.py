"""A prepared dataset, opened: splits, windows of turns, counts."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.data import store, tokenizers
from igerg_jax.errors import UserError


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


class Prepared:
    """A prepared dataset.

    Attributes:
      dataset: what was prepared.
      tokenizer: the one its tokens come from.
      folder: where its tokens lie; the turns are in the folder `turns` beside it.
      summary: {"splits": {split: counts}, ...}, as `igerg_jax.data.write.turns` wrote it.
      datasets: {name: Prepared}, all that the config names, this one included.
    """

    def __init__(self, dataset: str, folder: pathlib.Path, data: ConfigDict):
        """Opens `folder`, as config.data `data` says."""
        self.dataset = dataset
        self.folder = folder
        self.tokenizer = tokenizers.load(data.tokenizer.kind, folder / "tokenizer.model")
        self.turns_folder = folder.parent / "turns"
        self.summary = json.loads((self.turns_folder / "summary.json").read_text())
        self.datasets: dict[str, Prepared] = {dataset: self}
        self._context_turns = data.context_turns
        self._response_tokens = data.response_tokens
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split:
        """Returns a split by name. Raises UserError when there is none of that name."""
        if name not in self.summary["splits"]:
            known = ", ".join(self.summary["splits"])
            raise UserError(f"dataset '{self.dataset}' has no split '{name}'; there are: {known}")
        if name not in self._splits:
            turns = store.TurnStore(self.turns_folder / name, self.folder / name)
            standalone = self.summary["splits"][name]["standalone"]
            self._splits[name] = Split(name, turns, standalone, self._context_turns)
        return self._splits[name]

    def response_token_counts(self, name: str) -> np.ndarray:
        """Returns int64[V]: how often each id occurs in a split's responses.

        Responses are cut as in a batch: `response_tokens` of them, EOS kept last.
        """
        split = self.split(name)
        tokens, starts = split.turns.all_token_ids(), split.turns.token_starts()
        lengths = np.minimum(split.turns.token_counts(), self._response_tokens - 1)
        counts_V = np.zeros(self.tokenizer.vocab_size, np.int64)
        for ends in np.array_split(split.response_turn, max(1, split.num_windows // 100_000)):
            # The tokens of these responses, one range after another.
            kept = lengths[ends]
            first = np.repeat(starts[ends] - (np.cumsum(kept) - kept), kept)
            chosen = tokens[first + np.arange(kept.sum())]
            counts_V += np.bincount(chosen, minlength=len(counts_V))
        counts_V[self.tokenizer.special.eos] += split.num_windows
        return counts_V
