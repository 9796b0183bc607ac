"""What a dataset's module defines: a `RawDataset`, which reads the raw files into `Turns`.

Turns become what training reads (`igerg_jax.data.prepare`), without an intermediate copy of the
images, or a TFDS dataset (`igerg_jax.data.builders.tfds_builder`). TFDS is imported on
first use.
"""

import abc
import collections
import contextlib
import csv
import dataclasses
import hashlib
import io
import os
import pathlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from igerg_jax import storage
from igerg_jax.batch import EMOTION_ID, UNKNOWN
from igerg_jax.data.lazy_tensorflow import tfds
from igerg_jax.data.text_repair import decoded, repaired
from igerg_jax.errors import UserError

T = TypeVar("T")
NO_IMAGE = -1
_SHOWN_CHARACTERS = 60  # of a wrong field, in a message
_SHOWN_DIGITS = 20
# {name of a split elsewhere: its name here}
SPLIT_OF = {"train": "train", "training": "train"}
SPLIT_OF |= dict.fromkeys(("valid", "val", "validation", "dev"), "valid") | {"test": "test"}
WORD_LIST = "word list"  # `Info.labels` of texts that `igerg_jax.lexicon` labelled
SPLITS = tuple(dict.fromkeys(SPLIT_OF.values()))


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the raw files and the labels are, as set under `config.data`.

    Attributes:
      data_dir: folder that may be written to; TFDS downloads go below it.
      manual_dir: folder with files that you must download, "" = none.
      labels_path: folder of pseudo-labels (`igerg_jax.data.builders.pseudo_labels`), "" = none.
      min_confidence: pseudo-labels below it are dropped.
    """

    data_dir: str
    manual_dir: str
    labels_path: str
    min_confidence: float


@dataclasses.dataclass(frozen=True)
class Info:
    """A dataset's description.

    Attributes:
      labels: where the emotions of its texts come from, for reports: `WORD_LIST`, "annotators", or
        a description; "" = they have none.
      files: which files are needed where, and where to get them; shown when they are missing.
      extra: further entries of a turn, {name: (NumPy dtype or str, shape)}.
    """

    description: str
    citation: str
    license: str
    homepage: str
    labels: str
    files: str
    extra: dict[str, tuple[type, tuple[int, ...]]]

    def missing(self, what: str) -> UserError:
        """The error that says what is missing, and which files are needed."""
        return UserError(f"{what}. {' '.join(self.files.split())}")


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the turns of one config hold.

    Attributes:
      images: "no"; "always"; or "some": a turn may lack its image.
      feature_dim: > 0: float32 vectors of this width in place of images.
    """

    images: str
    feature_dim: int = 0


class Turns(abc.ABC):
    """The turns of a split, in the order of the dialogues: random access, no open files.

    Attributes:
      standalone: each turn is an example by itself (faces, comments), not part of a dialogue.
      image_per_turn: each turn has an image of its own; otherwise none has, or `image_keys` says
        which.
      labelled: whether some turn may have an emotion.
      passed_over: {ending such as ".txt", or another reason: how many}, of files among the images
        that are not images, or not those of any turn.
      remarks: {what was left out or repaired, as a plural: how many}. Preparation prints both.
    """

    standalone = False
    image_per_turn = False
    labelled = True
    passed_over: Mapping[str, int] = types.MappingProxyType({})
    remarks: Mapping[str, int] = types.MappingProxyType({})

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def row(self, i: int) -> dict:
        """Returns turn i without its image.

        "episode" and "turn" (int, from 0, without gaps), "text", "speaker" and "image_id" (str,
        "" = none), "emotion" (id, UNKNOWN = no label), and the entries of `Info.extra`.
        """

    @property
    def image_keys(self) -> np.ndarray:
        """int64[turns]: turns with equal keys share an image; NO_IMAGE = the turn has none."""
        numbers = np.arange(len(self), dtype=np.int64)
        return numbers if self.image_per_turn else np.full_like(numbers, NO_IMAGE)

    @property
    def emotions(self) -> np.ndarray:
        """int8[turns]: the emotion of each."""
        if not self.labelled:
            return np.full(len(self), UNKNOWN, np.int8)
        return np.array([self.row(i)["emotion"] for i in range(len(self))], np.int8)

    def image(self, i: int) -> bytes | None:
        """Returns the encoded image of turn i, None where its file is missing."""
        return None

    def features(self, i: int) -> np.ndarray:
        """Returns float32[F], the vector of turn i, where the layout has vectors."""
        raise NotImplementedError


class ListedTurns(Turns):
    """Turns from a list of rows (`row`), for text that fits into memory."""

    def __init__(self, rows: list[dict], remarks: Mapping[str, int] | None = None):
        self._rows, self.remarks = rows, +collections.Counter(remarks)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, i: int) -> dict:
        return self._rows[i]


class StandaloneImages(Turns):
    """Labelled images without words, each an example by itself.

    Args:
      images: (name, emotion) of each.
      read: name -> the encoded image, or None if it is missing.
      passed_over, remarks: see `Turns`.
      extra: what `Info.extra` names, the same for all.
    """

    standalone = True
    image_per_turn = True

    def __init__(
        self,
        images: Sequence[tuple[str, int]],
        read: Callable[[str], bytes | None],
        passed_over: Mapping[str, int] | None = None,
        remarks: Mapping[str, int] | None = None,
        **extra,
    ):
        self._images, self._read, self._extra = images, read, extra
        self.passed_over = +collections.Counter(passed_over)
        self.remarks = +collections.Counter(remarks)

    def __len__(self) -> int:
        return len(self._images)

    def row(self, i: int) -> dict:
        name, emotion = self._images[i]
        return row(i, 0, "", emotion, image_id=name, **self._extra)

    def image(self, i: int) -> bytes | None:
        return self._read(self._images[i][0])


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """A dataset as its authors publish it.

    Attributes:
      version: of what is read. Raise it whenever that changes: prepared data is keyed by it.
      info: what it is, its licence, and which files it needs.
      configs: {config: description}, the first being the default; empty if any name is valid.
      layout: config -> what its turns hold.
      splits: (config, options) -> {split: turns}, train first; raises UserError when files are
        missing. Where `combines` names datasets, their splits are further arguments.
      reads_manual_dir: whether the turns depend on `Options.manual_dir`.
      combines: config -> names of the datasets that it is made of, that of its texts first.
    """

    version: str
    info: Info
    configs: Mapping[str, str]
    layout: Callable[[str], Layout]
    splits: Callable[..., dict[str, Turns]]
    reads_manual_dir: bool = True
    combines: Callable[[str], tuple[str, ...]] = lambda config: ()


def row(episode: int, turn: int, text: str, emotion: int = UNKNOWN, **others) -> dict:
    """What `Turns.row` returns, with a speaker, image_id and `Info.extra` among the others."""
    text = repaired(text).encode(errors="replace").decode()  # JSON may hold half a surrogate pair
    named = {"episode": episode, "turn": turn, "text": text, "emotion": emotion}
    return named | {"speaker": "", "image_id": ""} | others


def locate(
    options: Options, dataset: str, info: Info, find: Callable[[pathlib.Path], T | None]
) -> T:
    """Returns what `find` finds in the first folder below `options.manual_dir` where it does.

    Folders are tried in this order: that of the dataset's name ("name/config", then "name"), and
    `manual_dir` itself. Raises UserError, which names the files that are needed, if none has them.
    """
    if options.manual_dir:
        root = storage.local_path(options.manual_dir)
        for folder in dict.fromkeys((root / dataset, root / dataset.split("/")[0], root)):
            if folder.is_dir() and (found := find(folder)):
                return found
    raise info.missing(
        f"dataset '{dataset}' has no files in config.data.manual_dir '{options.manual_dir}'"
    )


def split_files(
    folders: Iterable[pathlib.Path], pattern: str, splits: Iterable[str] = SPLITS
) -> dict[str, pathlib.Path]:
    """{split: path} in the first of the folders that has any; "{}" in the pattern is the split."""
    for folder in folders:
        paths = {split: folder / pattern.format(split) for split in splits}
        if found := {split: path for split, path in paths.items() if path.exists()}:
            return found
    return {}


def emotion_ids(words: Mapping[str, str]) -> dict[str, int]:
    """{word: emotion id} of {emotion: words with spaces between them}."""
    return {word: EMOTION_ID[name] for name, line in words.items() for word in line.split()}


# The eight emotions of Mikels and of EmoSet, and common spellings, map to the nearest of the seven.
# Contempt is not among the seven: it stays unlabelled.
_EMOTION_OF = EMOTION_ID | dict.fromkeys(("contempt", "unknown", "uncertain"), UNKNOWN)
_EMOTION_OF |= emotion_ids(
    {
        "surprise": "surprised awe",
        "fear": "fearful afraid scared",
        "disgust": "disgusted",
        "joy": "happy happiness joyful amusement contentment excitement",
        "sadness": "sad",
        "anger": "angry",
        "neutral": "calm no_emotion none",
    }
)


def emotion_id(name: str) -> int | None:
    """Returns the id of an emotion's name; UNKNOWN for one besides the seven, None for others."""
    return _EMOTION_OF.get(name.strip().lower().replace(" ", "_").replace("-", "_"))


def mixed_order(names: Iterable[str]) -> list[str]:
    """Sorts names by a hash of each: reproducible, and mixes the images of all folders.

    So the first images of a split, to which an evaluation may be limited, show every emotion.
    """
    return sorted(names, key=lambda name: hashlib.blake2b(name.encode(errors="replace")).digest())


def first_existing(folder: pathlib.Path, names: Iterable[str]) -> pathlib.Path | None:
    """Returns the first of folder/name that exists."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def read_text(path: pathlib.Path) -> str:
    """Returns a text file, decoded and repaired (`igerg_jax.data.text_repair.decoded`).

    Raises UserError when it cannot be read.
    """
    try:
        storage.check_regular_file(path)
        return decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error


def whole_number(text: str, what: str, at_most: int = 2**31 - 1) -> int:
    """The number that a field of a table holds. Raises ValueError unless it is 0 to `at_most`.

    Python's `int` also takes "1_000", and raises for thousands of digits.
    """
    digits = text.strip()
    if digits.isascii() and digits.isdecimal():
        digits = digits.lstrip("0") or "0"
        if len(digits) <= len(str(at_most)) and int(digits) <= at_most:
            return int(digits)
    raise ValueError(
        f"{what} is '{shown(text, _SHOWN_DIGITS)}', not a whole number from 0 to {at_most}"
    )


def shown(text: str, characters: int = _SHOWN_CHARACTERS) -> str:
    """A wrong field as a message shows it: only the beginning of a long one."""
    return text if len(text) <= characters else f"{text[:characters]}…"


def csv_rows(name: str, text: str) -> Iterator[list[str]]:
    """Yields the rows of a CSV file's text, blank lines left out. Raises UserError."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        yield from (row for row in reader if any(map(str.strip, row)))
    except csv.Error as error:  # a quote that is never closed
        raise UserError(f"{name}, before line {reader.line_num}: {error}") from error


def load_tfds(name: str, options: Options) -> dict[str, Any]:
    """Returns {split: random-access source} of a TFDS dataset, images not decoded.

    Downloads and builds it below options.data_dir/tfds on first use. Raises UserError if it cannot.
    """
    folder = os.path.join(os.path.expanduser(options.data_dir), "tfds")
    builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    manual = os.path.expanduser(options.manual_dir) if options.manual_dir else None
    config = tfds.download.DownloadConfig(manual_dir=manual)
    tfds.disable_progress_bar()  # its bars garble a log
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            builder.download_and_prepare(download_config=config)
    except Exception as error:  # whatever a download or a foreign builder raises
        reason = str(error).strip().split("\n") if str(error).strip() else [type(error).__name__]
        raise UserError(
            f"TFDS cannot make '{name}' in '{folder}': {reason[0]}. It needs a network, or a copy "
            f"of the folder '{name}' that was made elsewhere (with file_format='array_record')"
        ) from error
    skip = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    return {split: builder.as_data_source(split, decoders=skip) for split in builder.info.splits}
