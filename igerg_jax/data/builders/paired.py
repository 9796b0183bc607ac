"""`paired/DIALOGUES+FACES[@SEED]`: labelled dialogues with the faces of another dataset.

Every labelled turn of the dialogues gets a face with its emotion, for instance in
`paired/meld+fer2013` or `paired/daily_dialog+emotion_folder/rafdb@3`; the seed changes which.
No face is in two splits: a split uses the faces of the split of its name. If there is none, it
shares those of a held-out split (or else of train) with the other users of that. An image that
occurs in several splits, byte for byte, is used in one only: test before valid before train.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from igerg_jax.batch import EMOTIONS, UNKNOWN
from igerg_jax.data import order
from igerg_jax.data.builders import source
from igerg_jax.errors import UserError

INFO = source.Info(
    description="Labelled dialogues, each turn with a face of its emotion from another dataset.",
    citation="",
    license="Those of the dialogues and of the faces",
    homepage="",
    labels="",  # those of the dialogues: `builders.info`
    files="Both datasets' files are looked for as if each were used alone.",
    extra={"face_id": (str, ())},
)
_SALT = 0xFACE  # makes this order independent of others with the same seed


def parse(config: str) -> tuple[str, str, int]:
    """Returns (dialogues, faces, seed). Raises UserError for another form."""
    pair, _, seed = config.partition("@")
    names = pair.split("+")
    try:
        if len(names) != 2 or not all(names):
            raise ValueError("it names no two datasets")
        return names[0], names[1], source.whole_number(seed or "0", "the seed")
    except ValueError as error:
        raise UserError(
            f"dataset 'paired/{pair}' should be paired/DIALOGUES+FACES or "
            f"paired/DIALOGUES+FACES@SEED, such as paired/meld+fer2013: {error}"
        ) from error


def splits(
    config: str,
    options: source.Options,
    dialogues: dict[str, source.Turns],
    faces: dict[str, source.Turns],
) -> dict[str, source.Turns]:
    """Returns {split of the dialogues: turns}. Raises UserError when an emotion has no face."""
    del options
    dialogues_name, faces_name, seed = parse(config)
    for turns, name, standalone in ((dialogues, dialogues_name, False), (faces, faces_name, True)):
        if any(split.standalone != standalone for split in turns.values()):
            lacking = "faces" if standalone else "dialogues"
            raise UserError(f"'paired/{config}': '{name}' has no {lacking}")
    pools = divide(dialogues, faces)
    return {
        name: PairedTurns(turns, pools[name], seed=seed, where=f"{faces_name} for {name}")
        for name, turns in dialogues.items()
    }


class Pool(NamedTuple):
    """The faces that a split of dialogues may use.

    Attributes:
      faces: of one split.
      usable: int64, their numbers.
      remarks: on those that are not (`Turns.remarks`).
    """

    faces: source.Turns
    usable: np.ndarray
    remarks: dict[str, int]


def divide(dialogues: dict[str, source.Turns], faces: dict[str, source.Turns]) -> dict[str, Pool]:
    """Returns {split of the dialogues: its faces}."""
    usable, remarks = _without_copies(faces)
    sharers: dict[str, list[str]] = {}
    for name in dialogues:
        held_out = [s for s in ("valid", "test") if s in faces] if name != "train" else []
        donor = name if name in faces else (held_out or list(faces))[0]
        sharers.setdefault(donor, []).append(name)
    pools = {}
    for donor, names in sharers.items():
        digest_M = order.hash_uint64(_SALT, usable[donor])
        for i, name in enumerate(names):
            chosen = usable[donor][digest_M % np.uint64(len(names)) == i]
            pools[name] = Pool(faces[donor], chosen, remarks[donor])
    return pools


def _without_copies(
    faces: dict[str, source.Turns],
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, int]]]:
    """The numbers of the faces that are in no preferred split too, without empty files; remarks."""
    usable, remarks, seen = {}, {}, set()
    for split in [s for s in ("test", "valid", "train") if s in faces]:
        images = (faces[split].image(i) or b"" for i in range(len(faces[split])))
        digests = [image and hashlib.blake2b(image, digest_size=16).digest() for image in images]
        kept = [i for i, digest in enumerate(digests) if digest and digest not in seen]
        usable[split] = np.array(kept, np.int64)
        remarks[split] = {
            **{f"{what} (of the faces)": n for what, n in faces[split].remarks.items()},
            "faces have no file or an empty one; no turn gets them": digests.count(b""),
            "faces are in another split too; no turn gets them": sum(
                map(seen.__contains__, digests)
            ),
        }
        seen |= set(digests) - {b""}
    return usable, remarks


class PairedTurns(source.Turns):
    """The turns of `dialogues`, each labelled one with a face of its emotion.

    The k-th turn with an emotion gets the k-th face of that emotion in shuffled order, reshuffled
    after each pass, so that faces are used equally often.
    """

    def __init__(
        self,
        dialogues: source.Turns,
        pool: Pool,
        seed: int,
        where: str,
    ):
        faces, usable, remarks = pool
        self._dialogues, self._faces = dialogues, faces
        self.passed_over = faces.passed_over
        self.remarks = {k: n for k, n in (*dialogues.remarks.items(), *remarks.items()) if n}
        self._emotions = dialogues.emotions
        of_faces = faces.emotions[usable]
        self._face = np.full(len(dialogues), source.NO_IMAGE, np.int64)
        for emotion in np.unique(self._emotions[self._emotions != UNKNOWN]):
            turns, pool = np.flatnonzero(self._emotions == emotion), usable[of_faces == emotion]
            if not len(pool):
                raise UserError(f"there is no face of {EMOTIONS[emotion]} in {where}")
            places = np.arange(len(turns), dtype=np.int64)
            key = int(order.hash_uint64(seed, _SALT, int(emotion)) >> np.uint64(1))
            self._face[turns] = pool[order.examples_at(key, places, len(pool))]

    def __len__(self) -> int:
        return len(self._dialogues)

    def row(self, i: int) -> dict:
        row, face = self._dialogues.row(i), int(self._face[i])
        name = "" if face == source.NO_IMAGE else self._faces.row(face)["image_id"]
        common = {key: row[key] for key in ("episode", "turn", "text", "emotion", "speaker")}
        return common | {"image_id": name, "face_id": name}

    @property
    def emotions(self) -> np.ndarray:
        return self._emotions

    @property
    def image_keys(self) -> np.ndarray:
        return self._face

    def image(self, i: int) -> bytes | None:
        return self._faces.image(int(self._face[i]))


DATASET = source.RawDataset(
    version="1.0.0",
    info=INFO,
    configs={},  # any pair of datasets
    layout=lambda config: source.Layout(images="some"),
    splits=splits,
    combines=lambda config: parse(config)[:2],
)
