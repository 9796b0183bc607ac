"""What a dataset's module defines: a `RawDataset`, which reads the raw files into `Turns`.

Turns become what training reads (`igerg_jax.data.prepare`), without an intermediate copy of the
images, or a TFDS dataset (`igerg_jax.data.builders.tfds_builder`). Nothing here imports TFDS.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from igerg_jax.batch import UNKNOWN
from igerg_jax.errors import UserError

NO_IMAGE = -1
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the raw files and the labels are, as set under `config.data`.

    Attributes:
      data_dir: folder that may be written to; TFDS downloads go below it.
      manual_dir: folder with files that a person must fetch, "" = none. A dataset looks into
        the folder of its own name in it first, then into the folder itself.
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
      files: which files are needed where, and where to get them; shown when they are missing.
      extra: further entries of a turn, {name: (NumPy dtype or str, shape)}.
    """

    description: str
    citation: str
    license: str
    homepage: str
    files: str
    extra: dict[str, tuple[type, tuple[int, ...]]]


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
    """

    standalone = False

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
        return np.full(len(self), NO_IMAGE, np.int64)

    @property
    def emotions(self) -> np.ndarray:
        """int8[turns]: the emotion of each."""
        return np.array([self.row(i)["emotion"] for i in range(len(self))], np.int8)

    def image(self, i: int) -> bytes | None:
        """Returns the encoded image of turn i, None where its file is missing."""
        return None

    def features(self, i: int) -> np.ndarray:
        """Returns float32[F], the vector of turn i, where the layout has vectors."""
        raise NotImplementedError


class ListedTurns(Turns):
    """Turns from a list of rows (`row`), for text that fits into memory."""

    def __init__(self, rows: list[dict]):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, i: int) -> dict:
        return self._rows[i]


class StandaloneImages(Turns):
    """Labelled images without words, each an example by itself.

    Args:
      images: (name, emotion) of each.
      read: name -> the encoded image, or None where it is missing.
      extra: what `Info.extra` names, the same for all.
    """

    standalone = True

    def __init__(
        self,
        images: Sequence[tuple[str, int]],
        read: Callable[[str], bytes | None],
        **extra: object,
    ):
        self._images, self._read, self._extra = images, read, extra

    def __len__(self) -> int:
        return len(self._images)

    def row(self, i: int) -> dict:
        name, emotion = self._images[i]
        return row(i, 0, "", emotion, image_id=name, **self._extra)

    @property
    def image_keys(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64)

    def image(self, i: int) -> bytes | None:
        return self._read(self._images[i][0])


def _combines_nothing(config: str) -> tuple[str, ...]:
    del config
    return ()


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """A dataset as its authors publish it.

    Attributes:
      version: of what is read. Raise it with every change of that: prepared data is keyed by it.
      info: what it is, whose it is, and which files it needs.
      configs: {config: description}, the first being the default; empty if any name is valid.
      layout: config -> what its turns hold.
      splits: (config, options) -> {split: turns}, train first; raises UserError when files are
        missing. Where `combines` names datasets, their splits are further arguments.
      reads_manual_dir: whether the turns depend on `Options.manual_dir`.
      combines: config -> names of the datasets that it is made of.
    """

    version: str
    info: Info
    configs: Mapping[str, str]
    layout: Callable[[str], Layout]
    splits: Callable[..., dict[str, Turns]]
    reads_manual_dir: bool = True
    combines: Callable[[str], tuple[str, ...]] = _combines_nothing


def row(
    episode: int,
    turn: int,
    text: str,
    emotion: int = UNKNOWN,
    speaker: str = "",
    image_id: str = "",
    **extra,
) -> dict:
    """What `Turns.row` returns."""
    named = {"episode": episode, "turn": turn, "text": text, "emotion": emotion}
    return named | {"speaker": speaker, "image_id": image_id} | extra


def locate(
    options: Options, dataset: str, info: Info, is_there: Callable[[pathlib.Path], bool]
) -> pathlib.Path:
    """Returns the folder below `options.manual_dir` that holds a dataset's files.

    Args:
      dataset: its name, with or without "/config".
      is_there: whether a folder has the files.

    Raises:
      UserError: no folder has them; the message says which files are needed.
    """
    if options.manual_dir:
        root = pathlib.Path(options.manual_dir).expanduser()
        name = dataset.split("/")[0]
        for folder in dict.fromkeys((root / dataset, root / name, root)):
            if folder.is_dir() and is_there(folder):
                return folder
    raise UserError(
        f"dataset '{dataset}' has no files in config.data.manual_dir '{options.manual_dir}'. "
        f"{' '.join(info.files.split())}"
    )


def mixed_order(names: Iterable[str]) -> list[str]:
    """Sorts names by a hash of each: reproducible, and mixes the images of all folders.

    So the first images of a split, to which an evaluation may be limited, show every emotion.
    """
    return sorted(names, key=lambda name: hashlib.blake2b(name.encode(errors="replace")).digest())


def first_existing(folder: pathlib.Path, names: Iterable[str]) -> pathlib.Path | None:
    """Returns the first of folder/name that exists."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def read_bytes(path: pathlib.Path) -> bytes | None:
    """Returns a file's bytes, or None when there is no such file.

    Raises UserError when it exists but cannot be read: such an image is not merely broken.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return b""
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error


def read_mixed(path: pathlib.Path) -> str:
    """Returns a text file that mixes lines in UTF-8 and in Windows-1252.

    Raises UserError when it cannot be read.
    """

    def decode(line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            return line.decode("cp1252", errors="replace")

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    return "\n".join(map(decode, data.removeprefix(b"\xef\xbb\xbf").split(b"\n")))
