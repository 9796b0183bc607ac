"""Selects the stretches of the chats that become episodes, and assigns them to splits.

Most turns of a chat have no cue, and most that do are cheerful: of all turns, 65 % would be neutral
and each emotion but joy would have under 5 %. So of every chat we keep the non-overlapping
stretches of MIN_TURNS to MAX_TURNS turns with the highest total of TURN_SCORE. This selects real
dialogue: inside an episode no turn is moved, edited or dropped, except that long turns lose their
last messages.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import pathlib

from igerg_jax import lexicon
from igerg_jax.batch import EMOTIONS
from igerg_jax.errors import UserError

MIN_TURNS, MAX_TURNS = 4, 12
MAX_TURN_WORDS = 24  # one turn of the chats is 14,843 words long; the median is 12
TURN_SCORE = dict.fromkeys(EMOTIONS, 2.0) | {"surprise": 1.0, "joy": 0.0, "neutral": -1.25}
VALID_PERCENT, TEST_PERCENT = 8, 8  # of the chats; the rest is train


@dataclasses.dataclass(frozen=True)
class Turn:
    speaker: str
    text: str
    emotion: int  # id by `lexicon.label`


@dataclasses.dataclass(frozen=True)
class Episode:
    conversation: str  # id of the chat it was cut from
    first_turn: int  # its index in the chat
    turns: tuple[Turn, ...]


def chats_path() -> pathlib.Path:
    """Returns the chats' file. Raises UserError when `chitchat-dataset` is not installed."""
    spec = importlib.util.find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise UserError("the package 'chitchat-dataset' is missing: pip install chitchat-dataset")
    return pathlib.Path(spec.origin).parent / "dataset.json"


def by_split(every_nth: int) -> dict[str, list[Episode]]:
    """Returns {split: episodes}, in the order of the chats' ids.

    Args:
      every_nth: keep one chat in this many, chosen by a hash of its id (1 = all).
    """
    chats = json.loads(chats_path().read_text(encoding="utf-8"))
    splits: dict[str, list[Episode]] = {"train": [], "valid": [], "test": []}
    for conversation in sorted(chats):
        if stable_hash("subset", conversation) % every_nth:
            continue
        turns = read_turns(chats[conversation]["messages"])
        for first, end in best_stretches([TURN_SCORE[EMOTIONS[t.emotion]] for t in turns]):
            episode = Episode(conversation, first, tuple(turns[first:end]))
            splits[split_of(conversation)].append(episode)
    return splits


def split_of(conversation: str) -> str:
    """Returns the split of a chat: a pure function of its id."""
    percent = stable_hash("split", conversation) % 100
    if percent < TEST_PERCENT:
        return "test"
    return "valid" if percent < TEST_PERCENT + VALID_PERCENT else "train"


def stable_hash(*parts: str) -> int:
    """Returns a 64-bit hash that is the same in every process and on every machine."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def read_turns(groups: list[list[dict]]) -> list[Turn]:
    """One turn per group of consecutive messages by one sender; empty groups are dropped."""
    turns = []
    for group in groups:
        if text := shorten([str(message["text"]) for message in group]):
            turns.append(Turn(group[0]["sender"], text, lexicon.label(text)))
    return turns


def shorten(messages: list[str]) -> str:
    """Joins as many messages as fit into MAX_TURN_WORDS; truncates the first if it does not fit."""
    words: list[str] = []
    for message in messages:
        more = message.split()
        if words and len(words) + len(more) > MAX_TURN_WORDS:
            break
        words += more
    return " ".join(words[:MAX_TURN_WORDS])


def best_stretches(scores: list[float]) -> list[tuple[int, int]]:
    """The non-overlapping stretches (first, end) with the highest total score, in order.

    Dynamic programming over the end of the last stretch; stretches must add to the score.
    """
    total = [0.0]
    for score in scores:
        total.append(total[-1] + score)
    best, length_at = [0.0] * len(total), [0] * len(total)  # of the turns before each index
    for end in range(1, len(total)):
        best[end] = best[end - 1]
        for length in range(MIN_TURNS, min(MAX_TURNS, end) + 1):
            score = best[end - length] + total[end] - total[end - length]
            if score > best[end]:
                best[end], length_at[end] = score, length
    stretches, end = [], len(scores)
    while end > 0:
        if length_at[end]:
            stretches.append((end - length_at[end], end))
        end -= max(length_at[end], 1)
    return stretches[::-1]
