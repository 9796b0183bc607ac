"""FER2013: 48 x 48 grey faces, each labelled with one of the seven emotions.

Splits follow a face's usage in the challenge: Training is train, PublicTest valid, PrivateTest
test. Where a layout has both tests in one folder, the file names tell which is which.
"""

import collections
import contextlib
import itertools
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from igerg_jax import storage
from igerg_jax.batch import EMOTION_ID, UNKNOWN
from igerg_jax.data import image_files, image_gate, text_repair
from igerg_jax.data.builders import labelled_folders, source
from igerg_jax.data.builders.source import emotion_id
from igerg_jax.data.images import as_png
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
    labels="",
    files="""\
Put one of these there, perhaps in a folder fer2013/: fer2013.zip (Kaggle's, as
it is downloaded), its folders train/<emotion>/*.jpg and test/<emotion>/*.jpg (perhaps with
validation/<emotion>, or PublicTest and PrivateTest in place of test), or the challenge's
fer2013.csv or icml_face_data.csv; see
https://www.kaggle.com/datasets/msambare/fer2013 and the challenge's page.
'fer2013/ferplus' needs one of the tables, and fer2013new.csv of
https://github.com/microsoft/FERPlus.""",
    extra={"votes": (np.int32, (10,))},
)
_SPLIT_OF = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
_FOLDERS = source.SPLIT_OF | {usage.lower(): split for usage, split in _SPLIT_OF.items()}
_CSV_EMOTIONS = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
# FER+'s columns; the last three are not among the seven.
_VOTES = "neutral happiness surprise sadness anger disgust fear contempt unknown NF".split()
_NO_VOTES = np.zeros(len(_VOTES), np.int32)
_TABLE_NAMES = ("fer2013.csv", "icml_face_data.csv")
_TABLES = tuple(place + name for place in ("", "fer2013/") for name in _TABLE_NAMES)
_COLUMNS = ("emotion", "pixels", "usage")  # in fer2013.csv's order
_MAX_TABLE_BYTES = 2**31
SIDE_PIXELS = 48
_BESIDE, _OTHERS = "images beside the table that is read", "tables or archives beside it"


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: faces}. Raises UserError when no known layout is found."""

    def find(folder: pathlib.Path) -> pathlib.Path | None:
        if source.first_existing(folder, (*_TABLES, "fer2013.zip")):
            return folder
        places = (p for p in (folder, folder / "images") if p.is_dir())
        return next((place for place in places if _has_faces(place)), None)

    folder = source.locate(options, "fer2013", INFO, find)
    table = source.first_existing(folder, _TABLES)
    votes = folder / "fer2013new.csv" if config == "ferplus" else None
    if votes and (table is None or not votes.exists()):
        raise UserError(
            f"'fer2013/ferplus' needs fer2013.csv and fer2013new.csv in '{folder}': FER+ "
            "names faces by their rows in the first"
        )
    if table is not None:
        return _from_csv(table.name, source.read_text(table), votes, _beside(folder))
    if (folder / "fer2013.zip").exists():
        return _from_zip(folder / "fer2013.zip")
    labelled = labelled_folders.find(folder, emotion_id, _FOLDERS)
    return _faces(labelled, lambda name: image_gate.read_file(folder / name))


def _beside(folder: pathlib.Path) -> collections.Counter[str]:
    """{reason: how many} of what is left unread because of a table."""
    others = (folder / name for name in (*_TABLES, "fer2013.zip"))
    counts = collections.Counter({_OTHERS: sum(path.exists() for path in others) - 1})
    if _has_faces(folder):
        for name in labelled_folders.split_folders(folder, _FOLDERS):
            counts[_BESIDE] += len(image_files.find(folder / name).names)
    return counts


def _has_faces(folder: pathlib.Path) -> bool:
    """Whether a split's folder contains one that is named by an emotion."""
    names = labelled_folders.split_folders(folder, _FOLDERS)
    inner = (p for name in names for p in (folder / name).iterdir())
    return any(emotion_id(p.name) is not None and p.is_dir() for p in inner)


def _from_zip(path: pathlib.Path) -> dict[str, source.Turns]:
    storage.check_regular_file(path)
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read '{path}': {error}; download it again") from error

    def read(name: str) -> bytes:
        try:
            if archive.getinfo(name).file_size > image_gate.MAX_FILE_BYTES:
                return b""
            return archive.read(name)
        except Exception:  # of several types: a damaged entry, an unknown compression, a password
            return b""  # counted as broken, not as missing

    entries = [n for n in archive.namelist() if not n.endswith("/")]
    entries = [name for name in entries if not image_files.is_hidden(name)]
    names = list(dict.fromkeys(entries))
    reasons = {name: image_files.passed_over_reason(name) for name in names}
    images = [n for n, reason in reasons.items() if not reason]
    tables = [name for name in names if name.rpartition("/")[2] in _TABLE_NAMES]
    if tables:
        if archive.getinfo(tables[0]).file_size > _MAX_TABLE_BYTES:
            raise UserError(f"'{path}': {tables[0]} is larger than any table of FER2013")
        try:
            table = text_repair.decoded(archive.read(tables[0]))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise UserError(f"'{path}': cannot read {tables[0]}: {error}") from error
        beside = collections.Counter({_BESIDE: len(images), _OTHERS: len(tables) - 1})
        return _from_csv(tables[0], table, None, beside)
    labelled = labelled_folders.Labelled({}, {}, collections.Counter())
    labelled_folders.sort_into(labelled, images, emotion_id, _FOLDERS)
    others = labelled.passed_over.setdefault("train", collections.Counter())
    others.update(reason for reason in reasons.values() if reason)
    others["entries that a later one of the same name replaces"] = len(entries) - len(names)
    return _faces(labelled, read)


def _faces(
    labelled: labelled_folders.Labelled, read: Callable[[str], bytes | None]
) -> dict[str, source.Turns]:
    """The faces of folders or of an archive, by the split that is right for FER2013.

    Kaggle's folder `test` holds both tests; file names tell them apart. Names that do not count as
    the public test, unless there is a folder for validation. PrivateTest is always the private one.
    """
    faces: dict[str, list[tuple[str, int]]] = {split: [] for split in _SPLIT_OF.values()}
    has_valid = "valid" in labelled.emotions
    for folder_split, emotions in labelled.emotions.items():
        default = "valid" if folder_split == "test" and not has_valid else folder_split
        for name in source.mixed_order(emotions):
            *folders, file = name.split("/")
            is_private = "privatetest" in map(str.lower, folders)
            split = _SPLIT_OF.get(file.split("_")[0], "test" if is_private else default)
            faces[split].append((name, emotions[name]))
    if not any(faces.values()):
        raise INFO.missing("there is no FER2013 face")
    first = next(split for split, images in faces.items() if images)
    passed_over = collections.defaultdict(collections.Counter)
    for split, counts in labelled.passed_over.items():
        places = ("valid", split) if split == "test" and not has_valid else (split,)
        passed_over[next((p for p in places if faces[p]), first)].update(counts)
    return {
        split: source.StandaloneImages(images, read, passed_over[split], votes=_NO_VOTES)
        for split, images in faces.items()
        if images
    }


class PixelFaces(source.StandaloneImages):
    """Faces of fer2013.csv: uint8[n, 2304] pixels, row numbers, emotions, votes int32[n, 10]."""

    def __init__(
        self, pixels: np.ndarray, numbers: np.ndarray, emotions: np.ndarray, votes: np.ndarray
    ):
        names = [f"fer{number:07d}.png" for number in numbers]
        super().__init__(list(zip(names, emotions.tolist(), strict=True)), image_gate.read_file)
        self._pixels, self._votes = pixels, votes

    def row(self, i: int) -> dict:
        return super().row(i) | {"votes": self._votes[i]}

    def image(self, i: int) -> bytes:
        return as_png(self._pixels[i].reshape(SIDE_PIXELS, SIDE_PIXELS))


def _from_csv(
    name: str, table: str, votes_path: pathlib.Path | None, beside: collections.Counter[str]
) -> dict[str, source.Turns]:
    """Reads a table of faces; FER+'s votes are in the same order.

    Args:
      beside: what the first split passes over.
    """
    pixels, emotions, usages = [], [], []
    for number, (label, values, usage) in enumerate(_rows(name, table)):
        try:
            emotions.append(_emotion(label))
            pixels.append(_pixels(values))
            usages.append(_SPLIT_OF[usage.strip()])
        except KeyError as error:
            known = ", ".join(_SPLIT_OF)
            raise UserError(
                f"{name}, face {number}: usage '{source.shown(usage)}' is not one of {known}"
            ) from error
        except ValueError as error:
            raise UserError(f"{name}, face {number}: {error}") from error
    if votes_path is None:
        emotions, votes_Nx10 = np.array(emotions), np.tile(_NO_VOTES, (len(pixels), 1))
    else:
        votes_Nx10 = _read_votes(votes_path, len(pixels))
        emotions = majority(votes_Nx10)
    turns = {}
    for split in _SPLIT_OF.values():
        at = np.flatnonzero(np.array(usages) == split)
        if len(at):
            chosen = np.stack([pixels[i] for i in at])
            turns[split] = PixelFaces(chosen, at, emotions[at], votes_Nx10[at])
    if not turns:
        raise UserError(f"{name} has no face")
    next(iter(turns.values())).passed_over = +beside
    return turns


def _rows(name: str, table: str) -> Iterator[tuple[str, ...]]:
    """Yields the values of _COLUMNS of each row, whatever the order of the table's columns.

    Names may have spaces around them, as in icml_face_data.csv. A table whose first row is a face
    has no header, and fer2013.csv's columns.
    """
    rows = source.csv_rows(name, table)
    first = next(rows, [])
    names = [value.strip().lower() for value in first]
    if missing := [column for column in _COLUMNS if column not in names]:
        if len(first) != len(_COLUMNS) or not first[0].strip().lstrip("-").isdecimal():
            raise UserError(
                f"{name} has no column {', '.join(missing)}; its first line is "
                f"'{source.shown(','.join(first))}'"
            )
        names = list(_COLUMNS)
        rows = itertools.chain([first], rows)
    at = [names.index(column) for column in _COLUMNS]
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise UserError(f"{name}, face {number}: {len(row)} columns, not {len(names)}")
        yield tuple(row[i] for i in at)


def _emotion(label: str) -> int:
    """The emotion's id of a label of the table. Raises ValueError."""
    number = source.whole_number(label, "the label", len(_CSV_EMOTIONS) - 1)
    return EMOTION_ID[_CSV_EMOTIONS[number]]


def _pixels(values: str) -> np.ndarray:
    """uint8[SIDE_PIXELS**2] from numbers with spaces between them.

    Raises ValueError.
    """
    words = values.split()
    if len(words) != SIDE_PIXELS**2:
        if len(words) == 1:  # other signs between them
            source.whole_number(words[0], "a pixel", 255)
        raise ValueError(f"{len(words)} pixels, not {SIDE_PIXELS**2}")
    digits = "".join(words)
    if digits.isascii() and digits.isdecimal():  # `whole_number` takes far longer
        with contextlib.suppress(ValueError, OverflowError):
            pixels = np.array(words, np.int64)
            if (pixels <= 255).all():
                return pixels.astype(np.uint8)
    return np.array([source.whole_number(word, "a pixel", 255) for word in words], np.uint8)


def _read_votes(path: pathlib.Path, faces: int) -> np.ndarray:
    """int32[faces, 10]. Raises UserError when the rows are not those of the faces."""
    names, *rows = [*source.csv_rows(path.name, source.read_text(path))] or [[]]
    if len(rows) != faces:
        raise UserError(f"'{path}' has {len(rows)} rows, the table has {faces} faces")
    votes = []
    for number, values in enumerate(rows):
        row = dict(zip(map(str.strip, names), values, strict=False))
        image = row.get("Image name", "").strip()  # "" for a row that is not a face
        if image and image != f"fer{number:07d}.png":
            raise UserError(f"'{path}': row {number} is of '{image}', not of face {number}")
        try:
            votes.append([source.whole_number(row[name], name) for name in _VOTES])
        except KeyError as error:
            raise UserError(f"'{path}', row {number} has no votes for {error}") from error
        except ValueError as error:
            raise UserError(f"'{path}', row {number}: of the votes, {error}") from error
    return np.array(votes, np.int32).reshape(-1, len(_VOTES))


def majority(votes_Nx10: np.ndarray) -> np.ndarray:
    """int64[N]: the emotion with the most votes; UNKNOWN in a tie.

    Also UNKNOWN if contempt, "unknown" or "no face" has the most votes.
    """
    ids = np.array([emotion_id(name) if name != "NF" else UNKNOWN for name in _VOTES])
    most_N = votes_Nx10.max(axis=1, keepdims=True)
    single_N = (votes_Nx10 == most_N).sum(axis=1) == 1
    return np.where(single_N, ids[votes_Nx10.argmax(axis=1)], UNKNOWN)


DATASET = source.RawDataset(
    version="1.3.0",
    info=INFO,
    configs={
        "labels": "The challenge's labels.",
        "ferplus": "The labels that most of FER+'s ten annotators gave.",
    },
    layout=lambda config: source.Layout(images="always"),
    splits=splits,
)
