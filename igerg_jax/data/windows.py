"""Windows: some turns of an episode and the turn after them; and how they fill a batch's arrays.

NumPy only: images are decoded later. A window's turns have slots: 0..p-1 for the previous turns,
oldest first, and p for the response's turn. `image_turn`, `context_turn` and the order of the
images refer to these slots.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.batch import NEUTRAL, NUM_EMOTIONS, UNKNOWN, BatchSpec, SpecialIds
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

    If the turns are standalone (faces, comments), each one with an image or words is a window.

    Attributes:
      turns: the store with each turn once.
      standalone: whether each turn is an example by itself, not part of a dialogue.
      response_turn: int64[windows], the last turn of each window, by its number in the store.
    """

    def __init__(self, name: str, turns: store.TurnStore, standalone: bool, context_turns: int):
        self.name = name
        self.turns = turns
        self.standalone = standalone
        self.response_turn = window_ends(turns, standalone)
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


@dataclasses.dataclass(frozen=True)
class Example:
    """One window, by slot; the response comes last.

    Attributes:
      tokens: int32[...] of each slot, without special ids.
      emotions: id of each slot, UNKNOWN without a label.
      images: key of each slot's image (a record number, or the caller's own); NO_IMAGE = none.
      standalone: there is one slot, which is not a response to anything: its words are both context
        and response, and its image is never withheld.
    """

    tokens: Sequence[np.ndarray]
    emotions: Sequence[int]
    images: Sequence[int]
    standalone: bool = False


def read(split: Split, i: int) -> Example:
    """Returns window i of a split: words, labels and image numbers; reads no image."""
    first, last = split.turn_range(i)
    turns = split.turns
    return Example(
        tokens=[turns.tokens(n) for n in range(first, last + 1)],
        emotions=turns.emotion[first : last + 1].tolist(),
        images=turns.image[first : last + 1].tolist(),
        standalone=split.standalone,
    )


def pack(
    examples: Sequence[Example | None], config: ConfigDict, special: SpecialIds
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Packs windows into arrays; None makes a row that counts in no loss and no metric.

    Returns:
      The batch without `images` (see igerg_jax.batch), and int64[B, N]: the key of each slot's
      image, NO_IMAGE where `image_mask` is False.
    """
    spec = BatchSpec.of(config.data, len(examples))
    batch = {
        name: np.full(shape, _empty(name, special), dtype)
        for name, (shape, dtype) in dataclasses.replace(spec, groups=()).shapes().items()
        if name not in ("images", "features")
    }
    images_BxN = np.full((len(examples), spec.images), store.NO_IMAGE, np.int64)
    for row, example in enumerate(examples):
        if example is None:
            continue
        response_slot = len(example.tokens) - 1
        for slot, image in enumerate(example.images):
            is_response = slot == response_slot and not example.standalone
            hidden = is_response and not config.data.include_response_image
            if config.data.use_images and image != store.NO_IMAGE and not hidden:
                images_BxN[row, slot] = image
                batch["image_turn"][row, slot] = slot
                batch["image_emotion"][row, slot] = example.emotions[slot]
        _pack_words(batch, row, example, config.data.reverse, special.eos)
        batch["response_emotion"][row] = example.emotions[-1]
        batch["sequence_emotion"][row] = sequence_emotion(batch["image_emotion"][row])
    batch["image_mask"] = images_BxN != store.NO_IMAGE
    return batch, images_BxN


def _pack_words(
    batch: dict[str, np.ndarray], row: int, example: Example, reverse: bool, eos: int
) -> None:
    """Writes an example's words into a row; reversed, context and response change places."""
    spoken = example.tokens if example.standalone else example.tokens[:-1]
    if example.standalone and not len(spoken[0]):  # a face: only PAD in both
        return
    before, after = ("response", "context") if reverse else ("context", "response")
    context, turns = join_context(spoken, batch[before].shape[1], eos)
    response = np.append(example.tokens[-1][: batch[after].shape[1] - 1], eos)
    batch[before][row, : len(context)] = context
    batch[after][row, : len(response)] = response
    if not reverse:  # reversed, the context is one turn
        batch["context_turn"][row, : len(turns)] = turns


def _empty(name: str, special: SpecialIds) -> int:
    if name in ("context", "response"):
        return special.pad
    return UNKNOWN if name.endswith("_emotion") else 0


def join_context(
    tokens: Sequence[np.ndarray], limit: int, eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """The last `limit` of the previous turns' tokens, each followed by EOS: ids and their slots.

    Both are int32[<= limit].
    """
    empty = np.zeros(0, np.int32)
    ids = np.concatenate([empty, *(part for turn in tokens for part in (turn, [eos]))])
    slots = np.concatenate([empty, *(np.full(len(turn) + 1, i) for i, turn in enumerate(tokens))])
    return ids[-limit:].astype(np.int32), slots[-limit:].astype(np.int32)


def sequence_emotion(emotion_N: np.ndarray) -> int:
    """The emotion of a window: the most frequent among its images, neutral ones not counted.

    The latest wins a tie. Neutral if all known ones are neutral, UNKNOWN if none is known.
    """
    known = emotion_N[emotion_N != UNKNOWN]
    expressed = known[known != NEUTRAL]
    if not len(expressed):
        return NEUTRAL if len(known) else UNKNOWN
    counts = np.bincount(expressed, minlength=NUM_EMOTIONS)
    return int(next(e for e in expressed[::-1] if counts[e] == counts.max()))
