"""From windows of turns to the arrays of a batch, all but the pixels. NumPy only.

A window's turns sit in slots: previous turns 0..p-1, oldest first, then the response's own turn
p. `image_turn`, `context_turn` and the order of the images all count these slots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.batch import NEUTRAL, NUM_EMOTIONS, UNKNOWN, BatchSpec, SpecialIds
from igerg_jax.data import store
from igerg_jax.data.splits import Split


@dataclasses.dataclass(frozen=True)
class Example:
    """One window, in slots; the response comes last.

    Attributes:
      tokens: int32[...] of each slot, without special ids.
      emotions: id of each slot, UNKNOWN without a label.
      images: what shows each slot (a record's number, or any caller's key); NO_IMAGE = nothing.
      standalone: there is one slot, and it answers nothing: its words are context and response
        both, and its image is always shown.
    """

    tokens: Sequence[np.ndarray]
    emotions: Sequence[int]
    images: Sequence[int]
    standalone: bool = False


def read(split: Split, i: int) -> Example:
    """Returns window i of a split; reads words and labels, but no image."""
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
    """Packs windows into arrays; None gives a row that adds nothing to any loss or count.

    Returns:
      The batch without `images` (see igerg_jax.batch), and int64[B, N]: what shows each slot,
      NO_IMAGE where `image_mask` is False.
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
            answers = slot == response_slot and not example.standalone
            hidden = answers and not config.data.include_response_image
            if config.data.use_images and image != store.NO_IMAGE and not hidden:
                images_BxN[row, slot] = image
                batch["image_turn"][row, slot] = slot
                batch["image_emotion"][row, slot] = example.emotions[slot]
        said = example.tokens if example.standalone else example.tokens[:-1]
        silent = example.standalone and not len(said[0])  # a face without words: both all PAD
        context, turns = join_context([] if silent else said, spec.context_tokens, special.eos)
        batch["context"][row, : len(context)] = context
        batch["context_turn"][row, : len(turns)] = turns
        if not silent:
            response = end_with_eos(example.tokens[-1], spec.response_tokens, special.eos)
            batch["response"][row, : len(response)] = response
        batch["response_emotion"][row] = example.emotions[-1]
        batch["sequence_emotion"][row] = sequence_emotion(batch["image_emotion"][row])
    batch["image_mask"] = images_BxN != store.NO_IMAGE
    return batch, images_BxN


def _empty(name: str, special: SpecialIds) -> int:
    if name in ("context", "response"):
        return special.pad
    return UNKNOWN if name.endswith("_emotion") else 0


def join_context(
    tokens: Sequence[np.ndarray], limit: int, eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """Joins the previous turns' tokens, each turn ended by EOS; the oldest tokens go first.

    Returns:
      int32[S'] ids and int32[S'] slots, S' <= limit.
    """
    ids = [part for turn in tokens for part in (turn, [eos])]
    slots = [np.full(len(turn) + 1, slot) for slot, turn in enumerate(tokens)]
    if not ids:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    joined, turns = np.concatenate(ids)[-limit:], np.concatenate(slots)[-limit:]
    return joined.astype(np.int32), turns.astype(np.int32)


def end_with_eos(tokens: np.ndarray, limit: int, eos: int) -> np.ndarray:
    """Returns int32[<= limit]: the first limit - 1 tokens, then EOS."""
    return np.append(tokens[: limit - 1], eos).astype(np.int32)


def sequence_emotion(emotion_N: np.ndarray) -> int:
    """The emotion of a window: the most frequent one of its images that is not neutral.

    The latest wins a tie. Neutral when all known ones are neutral, UNKNOWN when none is known.
    """
    known = emotion_N[emotion_N != UNKNOWN]
    felt = known[known != NEUTRAL]
    if not len(felt):
        return NEUTRAL if len(known) else UNKNOWN
    counts = np.bincount(felt, minlength=NUM_EMOTIONS)
    return int(next(e for e in felt[::-1] if counts[e] == counts.max()))
