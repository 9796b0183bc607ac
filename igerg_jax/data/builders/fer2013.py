"""FER2013: 48 x 48 grey faces, each labelled with one of the seven emotions.

Splits follow a face's usage in the challenge: Training is train, PublicTest valid, PrivateTest
test. Where a layout has both tests in one folder, the file names tell which is which.
"""

from __future__ import annotations

import csv
import io
import pathlib
import re
import zipfile
import zlib

import numpy as np
from PIL import Image

from igerg_jax.batch import EMOTION_ID, UNKNOWN
from igerg_jax.data.builders import source
from igerg_jax.data.builders.labels import emotion_id
from igerg_jax.errors import UserError

INFO = source.Info(
    description="""\
FER2013: 35,887 grey faces of 48 x 48 pixels from image searches: 28,709 for training, 3,589 for
the public and as many for the private test of the challenge.""",
    citation="""\
@inproceedings{goodfellow2013challenges,
  title = {Challenges in Representation Learning: A Report on Three Machine Learning Contests},
  author = {Goodfellow, Ian J. and Erhan, Dumitru and Carrier, Pierre Luc and others},
  booktitle = {International Conference on Neural Information Processing},
  year = {2013}
}
@inproceedings{barsoum2016training,
  title = {Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
           Distribution},
  author = {Barsoum, Emad and Zhang, Cha and Canton Ferrer, Cristian and Zhang, Zhengyou},
  booktitle = {ICMI},
  year = {2016}
}""",
    license="For research (ICML 2013 challenge); FER+ labels: MIT",
    homepage="https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
    files="""\
Put one of these there, perhaps in a folder fer2013/: fer2013.zip (Kaggle's, as
it is downloaded), its folders train/<emotion>/*.jpg and test/<emotion>/*.jpg, or the challenge's
fer2013.csv; see https://www.kaggle.com/datasets/msambare/fer2013 and the challenge's page.
'fer2013/ferplus' needs fer2013.csv, and fer2013new.csv of https://github.com/microsoft/FERPlus.""",
    extra={"votes": (np.int32, (10,))},
)
_SPLIT_OF = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
_SPLIT_OF_FOLDER = {"train": "train", "test": "valid"}
_CSV_EMOTIONS = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
# FER+'s columns; the last three are none of the seven.
_VOTES = "neutral happiness surprise sadness anger disgust fear contempt unknown NF".split()
_FACE = re.compile(r"(?:.*/)?(train|test)/(\w+)/(\w+)\.(?:jpg|jpeg|png)", re.IGNORECASE)
_NO_VOTES = np.zeros(len(_VOTES), np.int32)
SIDE_PIXELS = 48


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: faces}. Raises UserError when no known layout is found."""
    folder = source.locate(options, "fer2013", INFO, _is_there)
    table = source.first_existing(folder, ["fer2013.csv", "fer2013/fer2013.csv"])
    archive = folder / "fer2013.zip"
    if config == "ferplus":
        votes = folder / "fer2013new.csv"
        if table is None or not votes.exists():
            raise UserError(
                f"'fer2013/ferplus' needs fer2013.csv and fer2013new.csv in '{folder}': FER+ "
                "names faces by their rows in the first"
            )
        return _from_csv(table.read_bytes(), votes)
    if table is not None:
        return _from_csv(table.read_bytes(), None)
    if archive.exists():
        return _from_zip(archive)
    names = [str(path.relative_to(folder)) for path in folder.glob("t*/*/*")]
    return _faces(names, lambda name: source.read_bytes(folder / name))


def _is_there(folder: pathlib.Path) -> bool:
    files = ("fer2013.csv", "fer2013/fer2013.csv", "fer2013.zip", "train/happy")
    return source.first_existing(folder, files) is not None


def _from_zip(path: pathlib.Path) -> dict[str, source.Turns]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read '{path}': {error}; download it again") from error
    names = archive.namelist()
    tables = [name for name in names if name.endswith("fer2013.csv")]
    if tables:
        return _from_csv(archive.read(tables[0]), None)
    return _faces(names, lambda name: _read_entry(archive, name))


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return b""  # counted as broken, not as missing


def _faces(names: list[str], read) -> dict[str, source.Turns]:
    """The faces of a folder or an archive, by split."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name in source.mixed_order(names):
        match = _FACE.fullmatch(name.replace("\\", "/"))
        emotion = emotion_id(match[2]) if match else None
        if emotion is None:
            continue
        usage = match[3].split("_")[0]
        split = _SPLIT_OF.get(usage) or _SPLIT_OF_FOLDER[match[1].lower()]
        found.setdefault(split, []).append((name, emotion))
    if not found:
        raise UserError(f"there is no FER2013 face. {' '.join(INFO.files.split())}")
    return {
        split: source.StandaloneImages(found[split], read, votes=_NO_VOTES)
        for split in _in_order(found)
    }


def _in_order(splits: dict) -> list[str]:
    return [split for split in _SPLIT_OF.values() if split in splits]


class PixelFaces(source.Turns):
    """Faces of fer2013.csv: uint8[n, 2304] pixels, row numbers, emotions, votes int32[n, 10]."""

    standalone = True

    def __init__(self, pixels, numbers, emotions, votes):
        self._pixels, self._numbers = pixels, numbers
        self._emotions, self._votes = emotions, votes

    def __len__(self) -> int:
        return len(self._numbers)

    def row(self, i: int) -> dict:
        name = f"fer{self._numbers[i]:07d}.png"
        return source.row(i, 0, "", int(self._emotions[i]), image_id=name, votes=self._votes[i])

    @property
    def image_keys(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64)

    def image(self, i: int) -> bytes | None:
        out = io.BytesIO()
        grey = self._pixels[i].reshape(SIDE_PIXELS, SIDE_PIXELS)
        Image.fromarray(grey).save(out, "PNG")
        return out.getvalue()


def _from_csv(table: bytes, votes_path: pathlib.Path | None) -> dict[str, source.Turns]:
    """Reads rows of `emotion,pixels,Usage`; FER+'s votes are in the same order."""
    rows = table.decode().splitlines()[1:]
    votes_Nx10 = None if votes_path is None else _read_votes(votes_path, len(rows))
    pixels, emotions, usages = [], [], []
    for number, row in enumerate(rows):
        try:
            label, values, usage = row.split(",")
            emotions.append(EMOTION_ID[_CSV_EMOTIONS[int(label)]])
            pixels.append(np.array(values.strip('"').split(), np.uint8))
            usages.append(_SPLIT_OF[usage.strip()])
            if len(pixels[-1]) != SIDE_PIXELS**2:
                raise ValueError(f"{len(pixels[-1])} pixels")
        except (ValueError, KeyError, IndexError) as error:
            raise UserError(f"fer2013.csv, face {number}: {error}") from error
    emotions = np.array(emotions)
    if votes_Nx10 is None:
        votes_Nx10 = np.tile(_NO_VOTES, (len(rows), 1))
    else:
        emotions = majority(votes_Nx10)
    found = {}
    for split in _in_order(dict.fromkeys(usages)):
        at = np.flatnonzero(np.array(usages) == split)
        chosen = np.stack([pixels[i] for i in at])
        found[split] = PixelFaces(chosen, at, emotions[at], votes_Nx10[at])
    return found


def _read_votes(path: pathlib.Path, faces: int) -> np.ndarray:
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    if len(rows) != faces:
        raise UserError(f"'{path}' has {len(rows)} rows, fer2013.csv has {faces} faces")
    return np.array([[int(row[name]) for name in _VOTES] for row in rows], np.int32)


def majority(votes_Nx10: np.ndarray) -> np.ndarray:
    """int64[N]: the emotion with the most votes; UNKNOWN in a tie.

    Also UNKNOWN if contempt, "unknown" or "no face" has the most votes.
    """
    ids = np.array([emotion_id(name) if name != "NF" else UNKNOWN for name in _VOTES])
    most_N = votes_Nx10.max(axis=1, keepdims=True)
    single_N = (votes_Nx10 == most_N).sum(axis=1) == 1
    return np.where(single_N, ids[votes_Nx10.argmax(axis=1)], UNKNOWN)


DATASET = source.RawDataset(
    version="1.1.0",
    info=INFO,
    configs={
        "labels": "The challenge's labels.",
        "ferplus": "The labels that most of FER+'s ten annotators gave.",
    },
    layout=lambda config: source.Layout(images="always"),
    splits=splits,
)
