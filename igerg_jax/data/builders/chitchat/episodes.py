"""Selects the stretches of the chats that become episodes, and assigns them to splits.

Most turns of a chat have no cue, and most that do are cheerful: of all turns, 65 % would be neutral
and each emotion but joy would have under 5 %. So of every chat we keep the non-overlapping
stretches of MIN_TURNS to MAX_TURNS turns with the highest total of TURN_SCORE. This selects real
dialogue: inside an episode no turn is moved, edited or dropped, except that long turns lose their
last messages.
"""

import abc
import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import random
import re
from typing import Any

import numpy as np

from igerg_jax import lexicon
from igerg_jax.batch import EMOTIONS
from igerg_jax.data.builders import source
from igerg_jax.errors import UserError

CITATION = """\
@software{chitchat_dataset,
  author = {Myers, Will and Etchart, Tyler and Fulda, Nancy},
  title = {Conversational Scaffolding: An Analogy-based Approach to Response Prioritization in
           Open-domain Dialogs ({BYU} chit-chat dataset)},
  year = {2020},
  url = {https://github.com/BYU-PCCL/chitchat-dataset}
}
"""
LICENSE = "MIT, BYU Perception, Control and Cognition Laboratory"
HOMEPAGE = "https://github.com/BYU-PCCL/chitchat-dataset"
EVERY_NTH = {"full": 1, "tiny": 16}  # dataset config -> `every_nth` of `by_split`
CONFIGS = {"full": "Stretches of all chats.", "tiny": "Of one chat in 16, for tests."}
FACE_SEED = 0

MIN_TURNS, MAX_TURNS = 4, 12
# Turns have 12 words at the median, and one has 14,843.
TURN_WORDS = 16  # a turn is cut after its last sentence that ends within them
MAX_TURN_WORDS = 24  # where the first sentence is longer: cut after these
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s")
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


class FaceTurns(source.Turns):
    """The turns of some episodes, each with a drawn face that shows its emotion.

    A subclass says which faces a split has and how one is drawn.
    """

    image_per_turn = True

    def __init__(self, episodes: list[Episode], split: str):
        self._episodes, self._split = episodes, split
        self._places = [(e, t) for e in range(len(episodes)) for t in range(len(episodes[e].turns))]

    @abc.abstractmethod
    def _pick(self, emotion: int, rng: random.Random) -> Any:
        """Returns a random face that shows the emotion with that id."""

    @abc.abstractmethod
    def _draw(self, face: Any, rng: random.Random) -> bytes:
        """Returns a JPEG of a face of `_pick`."""

    @abc.abstractmethod
    def _names(self, face: Any) -> dict[str, Any]:
        """Returns "image_id" and the dataset's own entries of a face of `_pick`."""

    def __len__(self) -> int:
        return len(self._places)

    def row(self, i: int) -> dict:
        number, position = self._places[i]
        episode = self._episodes[number]
        turn, (face, _) = episode.turns[position], self.face(i)
        return source.row(
            number,
            position,
            turn.text,
            turn.emotion,
            speaker=turn.speaker,
            conversation=episode.conversation,
            **self._names(face),
        )

    @property
    def emotions(self) -> np.ndarray:
        return np.array([self._episodes[e].turns[t].emotion for e, t in self._places], np.int8)

    def image(self, i: int) -> bytes:
        return self._draw(*self.face(i))

    def face(self, i: int) -> tuple[Any, random.Random]:
        """Returns the face of turn i, and the generator of its position, size and colours."""
        number, position = self._places[i]
        episode = self._episodes[number]
        rng = random.Random(f"{FACE_SEED}/{episode.conversation}/{episode.first_turn + position}")
        return self._pick(episode.turns[position].emotion, rng), rng


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


def whole_chats(split: str) -> list[Episode]:
    """All chats of a split, each from its first turn to its last, in the order of their ids."""
    chats = json.loads(chats_path().read_text(encoding="utf-8"))
    return [
        Episode(conversation, 0, tuple(read_turns(chats[conversation]["messages"])))
        for conversation in sorted(chats)
        if split_of(conversation) == split
    ]


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
    """Joins as many whole sentences as fit into TURN_WORDS, and at least the first.

    A sentence ends where its message does, or at one of ".!?…" before a space. One of more than
    MAX_TURN_WORDS is cut.
    """
    words: list[str] = []
    for sentence in (s for message in messages for s in _SENTENCE_END.split(message)):
        more = sentence.split()
        if words and len(words) + len(more) > TURN_WORDS:
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
