"""FER2013: 48 x 48 grey faces, each labelled with one of the seven emotions.

Splits follow a face's usage in the challenge: Training is train, PublicTest valid, PrivateTest
test. Where a layout has both tests in one folder, the file names tell which is which.
"""

import csv
import io
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from igerg_jax.batch import EMOTION_ID, UNKNOWN
from igerg_jax.data.builders import source
from igerg_jax.data.builders.source import emotion_id
from igerg_jax.errors import UserError

INFO = source.Info(
    description="""\
FER2013: 35,887 grey faces of 48 x 48 pixels from image searches: 28,709 for training, 3,589 for
the public and as many for the private test of the challenge.""",
    citation="""\
@inproceedings{goodfellow2013challenges,
  title = {Challenges in Representation Learning: A Report on Three Machine Learning Contests},
  author = {Goodfellow, Ian J. and Erhan, Dumitru and Carrier, Pierre Luc and others},
  booktitle = {International Conference on Neural Information Processing}, year = {2013}
}
@inproceedings{barsoum2016training,
  title = {Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
           Distribution},
  author = {Barsoum, Emad and Zhang, Cha and Canton Ferrer, Cristian and Zhang, Zhengyou},
  booktitle = {ICMI}, year = {2016}
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
_TABLES = ("fer2013.csv", "fer2013/fer2013.csv")
SIDE_PIXELS = 48


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: faces}. Raises UserError when no known layout is found."""

    def find(folder: pathlib.Path) -> pathlib.Path | None:
        known = source.first_existing(folder, (*_TABLES, "fer2013.zip", "train/happy"))
        return None if known is None else folder

    folder = source.locate(options, "fer2013", INFO, find)
    table = source.first_existing(folder, _TABLES)
    votes = folder / "fer2013new.csv" if config == "ferplus" else None
    if votes and (table is None or not votes.exists()):
        raise UserError(
            f"'fer2013/ferplus' needs fer2013.csv and fer2013new.csv in '{folder}': FER+ "
            "names faces by their rows in the first"
        )
    if table is not None:
        return _from_csv(table.read_bytes(), votes)
    if (folder / "fer2013.zip").exists():
        return _from_zip(folder / "fer2013.zip")
    names = [str(path.relative_to(folder)) for path in folder.glob("t*/*/*")]
    return _faces(names, lambda name: source.read_bytes(folder / name))


def _from_zip(path: pathlib.Path) -> dict[str, source.Turns]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read '{path}': {error}; download it again") from error

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError):
            return b""  # counted as broken, not as missing

    names = archive.namelist()
    tables = [name for name in names if name.endswith("fer2013.csv")]
    return _from_csv(archive.read(tables[0]), None) if tables else _faces(names, read)


def _faces(names: list[str], read: Callable[[str], bytes | None]) -> dict[str, source.Turns]:
    """The faces of a folder or an archive, by split."""
    faces: dict[str, list[tuple[str, int]]] = {split: [] for split in _SPLIT_OF.values()}
    for name in source.mixed_order(names):
        match = _FACE.fullmatch(name.replace("\\", "/"))
        emotion = emotion_id(match[2]) if match else None
        if emotion is not None:
            usage = match[3].split("_")[0]
            split = _SPLIT_OF.get(usage) or _SPLIT_OF_FOLDER[match[1].lower()]
            faces[split].append((name, emotion))
    if not any(faces.values()):
        raise INFO.missing("there is no FER2013 face")
    return {
        split: source.StandaloneImages(images, read, votes=_NO_VOTES)
        for split, images in faces.items()
        if images
    }


class PixelFaces(source.StandaloneImages):
    """Faces of fer2013.csv: uint8[n, 2304] pixels, row numbers, emotions, votes int32[n, 10]."""

    def __init__(
        self, pixels: np.ndarray, numbers: np.ndarray, emotions: np.ndarray, votes: np.ndarray
    ):
        names = [f"fer{number:07d}.png" for number in numbers]
        super().__init__(list(zip(names, emotions.tolist(), strict=True)), source.read_bytes)
        self._pixels, self._votes = pixels, votes

    def row(self, i: int) -> dict:
        return super().row(i) | {"votes": self._votes[i]}

    def image(self, i: int) -> bytes:
        out = io.BytesIO()
        grey = self._pixels[i].reshape(SIDE_PIXELS, SIDE_PIXELS)
        Image.fromarray(grey).save(out, "PNG")
        return out.getvalue()


def _from_csv(table: bytes, votes_path: pathlib.Path | None) -> dict[str, source.Turns]:
    """Reads rows of `emotion,pixels,Usage`; FER+'s votes are in the same order."""
    rows = table.decode().splitlines()[1:]
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
    if votes_path is None:
        emotions, votes_Nx10 = np.array(emotions), np.tile(_NO_VOTES, (len(rows), 1))
    else:
        votes_Nx10 = _read_votes(votes_path, len(rows))
        emotions = majority(votes_Nx10)
    turns = {}
    for split in _SPLIT_OF.values():
        at = np.flatnonzero(np.array(usages) == split)
        if len(at):
            chosen = np.stack([pixels[i] for i in at])
            turns[split] = PixelFaces(chosen, at, emotions[at], votes_Nx10[at])
    return turns


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
