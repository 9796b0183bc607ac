"""How a prepared split lies on disk: turns stored once, images in ArrayRecord, words in columns.

    images.array_record   one record an image, its JPEG bytes (random access by number)
    <column>.npy          one row a turn, or what the offsets of the turns point into

Words and labels are memory-mapped columns rather than part of the image's record, so that text,
label statistics and label-only windows cost no image reads, and a turn's image may be shared.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from array_record.python import array_record_data_source, array_record_module
from PIL import Image

# Group size 1 makes one image one read; JPEG bytes do not compress.
_WRITER_OPTIONS = "group_size:1,uncompressed"
NO_IMAGE = -1
_COLUMNS = {  # name: dtype
    "emotion": np.int8,  # per turn; UNKNOWN = no label
    "turn_in_episode": np.int32,  # per turn, from 0
    "image": np.int64,  # per turn: which record shows it; NO_IMAGE = none
    "token_offsets": np.int64,  # turns + 1
    "tokens": np.int32,
    "text_offsets": np.int64,  # turns + 1
    "text": np.uint8,  # UTF-8
    "image_height_width": np.int32,  # [images, 2] pixels
}


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn as the builders give it.

    Attributes:
      turn_in_episode: 0 begins a new episode, the next turn is 1 more.
      image: an encoded image (JPEG is kept as it is), or None.
    """

    text: str
    tokens: Sequence[int]
    emotion: int
    turn_in_episode: int
    image: bytes | None


def write(folder: pathlib.Path, turns: Iterable[Turn]) -> dict[str, int]:
    """Writes a split into `folder`, which must exist.

    Returns:
      {"turns": ..., "windows": ..., "images": ...}: how many there are.

    Raises:
      ValueError: when a turn does not follow the one before it.
    """
    columns: dict[str, list] = {name: [] for name in _COLUMNS}
    token_end = text_end = 0
    columns["token_offsets"].append(0)
    columns["text_offsets"].append(0)
    previous = -1
    writer = array_record_module.ArrayRecordWriter(
        str(folder / "images.array_record"), _WRITER_OPTIONS
    )
    try:
        for number, turn in enumerate(turns):
            if turn.turn_in_episode not in (0, previous + 1):
                raise ValueError(
                    f"turn {number}: {turn.turn_in_episode} follows {previous} in an episode"
                )
            previous = turn.turn_in_episode
            text = turn.text.encode()
            token_end, text_end = token_end + len(turn.tokens), text_end + len(text)
            columns["emotion"].append(turn.emotion)
            columns["turn_in_episode"].append(turn.turn_in_episode)
            columns["tokens"].append(np.asarray(turn.tokens, np.int32))
            columns["token_offsets"].append(token_end)
            columns["text"].append(np.frombuffer(text, np.uint8))
            columns["text_offsets"].append(text_end)
            columns["image"].append(NO_IMAGE)
            if turn.image is not None:
                columns["image"][-1] = len(columns["image_height_width"])
                jpeg, height_width = as_jpeg(turn.image)
                writer.write(jpeg)
                columns["image_height_width"].append(height_width)
    finally:
        writer.close()
    for name, dtype in _COLUMNS.items():
        np.save(folder / f"{name}.npy", _column(name, columns[name], dtype))
    in_episode = columns["turn_in_episode"]
    return {
        "turns": len(in_episode),
        "windows": sum(turn > 0 for turn in in_episode),
        "images": len(columns["image_height_width"]),
    }


def _column(name: str, values: list, dtype: type) -> np.ndarray:
    if name in ("tokens", "text"):
        return np.concatenate([*values, np.zeros(0, dtype)])
    if name == "image_height_width":
        return np.asarray(values, dtype).reshape(-1, 2)
    return np.asarray(values, dtype)


def as_jpeg(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """Returns (JPEG bytes, (height, width)): `data` itself if that is what it holds.

    Raises OSError when it is no image that can be decoded to its end.
    """
    with Image.open(io.BytesIO(data)) as image:
        size = (image.height, image.width)
        if image.format == "JPEG" and image.mode == "RGB":
            image.draft("RGB", (1, 1))  # the smallest that the decoder makes: enough to see a cut
            image.load()
            return data, size
        out = io.BytesIO()
        image.convert("RGB").save(out, "JPEG", quality=95)
        return out.getvalue(), size


def _open(path: pathlib.Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except ValueError:  # nothing to map in an empty file
        return np.load(path)


class TurnStore:
    """A prepared split: random access to its turns, safe to use from several threads."""

    def __init__(self, folder: pathlib.Path):
        self._column = {name: _open(folder / f"{name}.npy") for name in _COLUMNS}
        self.emotion = np.asarray(self._column["emotion"])  # int8[turns]
        self.turn_in_episode = np.asarray(self._column["turn_in_episode"])  # int32[turns]
        self.image = np.asarray(self._column["image"])  # int64[turns]
        self.image_height_width = np.asarray(self._column["image_height_width"])  # int32[images, 2]
        self._images = None
        self._images_path = folder / "images.array_record"

    def __len__(self) -> int:
        return len(self.emotion)

    def tokens(self, turn: int) -> np.ndarray:
        """Returns int32[tokens of the turn], without special ids."""
        start, end = self._column["token_offsets"][turn : turn + 2]
        return self._column["tokens"][start:end]

    def text(self, turn: int) -> str:
        start, end = self._column["text_offsets"][turn : turn + 2]
        return self._column["text"][start:end].tobytes().decode()

    def all_tokens(self) -> Iterator[np.ndarray]:
        """Yields int32[tokens] of every turn, in order."""
        for start, end in itertools.pairwise(self._column["token_offsets"].tolist()):
            yield self._column["tokens"][start:end]

    def read_images(self, records: Sequence[int]) -> list[bytes]:
        """Returns the JPEG bytes of those image records (numbers from `image`)."""
        if not len(records):
            return []
        if self._images is None:
            self._images = array_record_data_source.ArrayRecordDataSource(str(self._images_path))
        return self._images.__getitems__([int(r) for r in records])
