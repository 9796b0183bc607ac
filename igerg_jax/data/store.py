"""The files of a prepared split: each turn once, images in ArrayRecord, words in columns.

    turns/<split>/<column>.npy             a row per turn, or the data that its offsets refer to
    turns/<split>/images-*.array_record    a record per image: its JPEG bytes
    turns/<split>/features.npy             vectors instead of images
    <tokenizer digest>/<split>/*.npy       the words as ids

Words and labels are memory-mapped columns, not part of the image records: text and label statistics
read no images, and turns may share an image. Tokens are separate, so that another tokenizer does
not copy the images.
"""

import contextlib
import pathlib
import resource
from collections.abc import Iterable, Sequence

import numpy as np
from array_record.python import array_record_data_source, array_record_module

from igerg_jax.data.builders.source import NO_IMAGE as NO_IMAGE
from igerg_jax.data.image_gate import BrokenImage, as_jpeg
from igerg_jax.data.text_repair import repaired
from igerg_jax.errors import UserError

FORMAT = 3  # part of a prepared folder's name: raise it whenever the files change
# With group size 1 an image is one read; JPEG bytes do not compress.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def text_columns(rows: Iterable[dict]) -> dict[str, np.ndarray]:
    """The columns of the rows of turns (`builders.source.Turns.row`).

    "emotion" int8[turns], UNKNOWN = no label; "turn_in_episode" int32[turns], from 0;
    "text_lengths" int64[turns], bytes; "text" uint8[bytes], UTF-8.

    Raises ValueError when a turn does not follow the one before it.
    """
    texts, emotions, places = [], [], []
    for number, row in enumerate(rows):
        if row["turn"] != 0 and places and row["turn"] != places[-1] + 1:
            raise ValueError(f"turn {number}: {row['turn']} follows {places[-1]} in an episode")
        places.append(row["turn"])
        emotions.append(row["emotion"])
        texts.append(repaired(row["text"]).encode(errors="replace"))
    return {
        "emotion": np.array(emotions, np.int8),
        "turn_in_episode": np.array(places, np.int32),
        "text_lengths": np.array([len(text) for text in texts], np.int64),
        "text": np.frombuffer(b"".join(texts), np.uint8),
    }


def token_columns(token_lists: Iterable[Sequence[int]]) -> dict[str, np.ndarray]:
    """The columns "token_lengths" int64[turns] and "tokens" int32[ids of all turns]."""
    tokens = [np.asarray(ids, np.int32) for ids in token_lists]
    return {
        "token_lengths": np.array([len(ids) for ids in tokens], np.int64),
        "tokens": np.concatenate([*tokens, np.zeros(0, np.int32)]),
    }


def write_images(
    path: pathlib.Path, images: Iterable[bytes | None], short_side: int
) -> dict[str, np.ndarray]:
    """Writes the images that can be decoded to an ArrayRecord file, in order.

    Args:
      short_side: as for `image_gate.as_jpeg`.

    Returns:
      "image_height_width" int32[written, 2] pixels; "state" int8[images]: 0 = written,
      1 = missing (None), 2 = broken; and "reason" str[broken], why each of them is.
    """
    sizes, states, reasons = [], [], []
    writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    with contextlib.closing(writer):
        for data in images:
            try:
                jpeg, height_width = (None, None) if data is None else as_jpeg(data, short_side)
            except BrokenImage as error:
                states.append(2)
                reasons.append(str(error))
                continue
            states.append(1 if jpeg is None else 0)
            if jpeg is not None:
                writer.write(jpeg)
                sizes.append(height_width)
    return {
        "image_height_width": np.array(sizes, np.int32).reshape(-1, 2),
        "state": np.array(states, np.int8),
        "reason": np.array(reasons, np.str_),
    }


def records_in(path: pathlib.Path) -> int:
    """How many images a file has: 0 where there is no file, -1 where it is damaged."""
    if not path.exists():
        return 0
    try:
        return len(array_record_data_source.ArrayRecordDataSource([str(path)]))
    except Exception:  # of several types: ArrayRecord's, of an empty file
        return -1


def feature_columns(vectors_MxF: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of `write_images`, for vectors instead of images, and "features" float32[written, F].

    A vector that holds NaN or infinity counts as broken: it would make a training step's loss NaN.
    """
    finite_M = np.isfinite(vectors_MxF).all(axis=1)
    return {
        "features": vectors_MxF[finite_M].astype(np.float32),
        "image_height_width": np.zeros((0, 2), np.int32),
        "state": np.where(finite_M, 0, 2).astype(np.int8),
        "reason": np.full((~finite_M).sum(), "it holds NaN or infinity"),
    }


def joined(parts: Sequence[pathlib.Path], name: str) -> np.ndarray:
    """The arrays of one name in some .npz files, concatenated in the order of the files."""
    pieces = []
    for path in parts:
        with np.load(path) as part:
            pieces.append(part[name])
    return np.concatenate(pieces)


def merge_columns(folder: pathlib.Path, parts: Sequence[pathlib.Path], *names: str) -> None:
    """Joins columns of .npz files into folder/<column>.npy; n lengths become n + 1 offsets."""
    for name in names:
        column = joined(parts, name)
        if name.endswith("_lengths"):
            name = name.replace("_lengths", "_offsets")
            column = np.concatenate([[0], np.cumsum(column)])
        np.save(folder / f"{name}.npy", column)


def merge_features(folder: pathlib.Path, parts: Sequence[pathlib.Path], total: int) -> None:
    """Writes folder/features.npy, float32[total, F]: one part at a time, as all may not fit."""
    out, at = None, 0
    for part in parts:
        rows = joined([part], "features")
        if out is None:
            path, shape = folder / "features.npy", (total, rows.shape[1])
            out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        out[at : at + len(rows)] = rows
        at += len(rows)


def _open(path: pathlib.Path) -> np.ndarray:
    try:
        # A plain array over the mapped memory: slicing np.memmap has overhead.
        return np.asarray(np.load(path, mmap_mode="r"))
    except ValueError:  # an empty array cannot be mapped
        return np.load(path)


def allow_open_files(more: int) -> None:
    """Raises this process's soft limit of open files by `more`, as far as the hard limit allows.

    An ArrayRecord file stays open after its first read, and OpenViDial v2 has more of them than the
    usual soft limit of 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    wanted = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
    with contextlib.suppress(OSError, ValueError):  # the true limit may be lower
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class TurnStore:
    """A prepared split: random access to its turns, thread-safe.

    Attributes:
      emotion: int8[turns]; turn_in_episode: int32[turns].
      image: int64[turns], the record of each turn's image; NO_IMAGE = none.
      image_height_width: int32[records, 2] pixels; empty with vectors.
      feature_dim: F, 0 with images.
      token_ids: int32[tokens of the split], memory-mapped.
      token_offsets: int64[turns + 1]; turn i's ids are [offsets[i], offsets[i + 1]).
    """

    def __init__(self, turns: pathlib.Path, tokens: pathlib.Path | None):
        """Opens turns/<split>; and <digest>/<split>, or None if no tokens are needed."""
        self._folder = turns
        self.emotion = np.load(turns / "emotion.npy")
        self.turn_in_episode = np.load(turns / "turn_in_episode.npy")
        self.image = np.load(turns / "image.npy")
        self.image_height_width = np.load(turns / "image_height_width.npy")
        self._text_offsets = _open(turns / "text_offsets.npy")
        self._text = _open(turns / "text.npy")
        self.token_offsets = self.token_ids = np.zeros(0, np.int32)
        if tokens is not None:
            self.token_offsets = _open(tokens / "token_offsets.npy")
            self.token_ids = _open(tokens / "tokens.npy")
            if len(self.token_offsets) != len(self.emotion) + 1:
                raise UserError(
                    f"'{tokens}' has the tokens of {len(self.token_offsets) - 1} turns, '{turns}' "
                    f"has {len(self.emotion)}: remove '{tokens.parent}', and prepare again"
                )
        vectors = turns / "features.npy"
        self._features = _open(vectors) if vectors.exists() else None
        self.feature_dim = 0 if self._features is None else self._features.shape[1]
        self._images = None
        self._image_files = sorted(str(path) for path in turns.glob("images-*.array_record"))

    def __len__(self) -> int:
        return len(self.emotion)

    def tokens(self, turn: int) -> np.ndarray:
        """Returns int32[tokens of the turn], without special ids."""
        start, end = self.token_offsets[turn : turn + 2]
        return self.token_ids[start:end]

    def text(self, turn: int) -> str:
        start, end = self._text_offsets[turn : turn + 2]
        return self._text[start:end].tobytes().decode()

    def token_counts(self) -> np.ndarray:
        """Returns int64[turns]: the number of tokens of each turn."""
        return np.diff(self.token_offsets)

    def text_bytes(self) -> np.ndarray:
        """Returns int64[turns]: the length of each turn's text."""
        return np.diff(self._text_offsets)

    def count_images(self) -> int:
        """Returns the number of image records, or of vectors, in the files."""
        if self._features is not None:
            return len(self._features)
        files = self._image_files
        return len(array_record_data_source.ArrayRecordDataSource(files)) if files else 0

    def read_images(self, records: Sequence[int]) -> list[bytes]:
        """Returns the JPEG bytes of those image records (numbers from `image`).

        Raises UserError if a file is damaged.
        """
        if not len(records):
            return []
        try:
            if self._images is None:
                allow_open_files(len(self._image_files))
                self._images = array_record_data_source.ArrayRecordDataSource(self._image_files)
            return self._images.__getitems__([int(r) for r in records])
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"cannot read images in '{self._folder}': {error}. To see which files are damaged, "
                "run 'igerg prepare --verify'"
            ) from error

    def read_features(self, records: Sequence[int]) -> np.ndarray:
        """Returns float32[M, F]: the vectors of those records (numbers from `image`)."""
        return np.asarray(self._features[np.asarray(records, np.int64)])
