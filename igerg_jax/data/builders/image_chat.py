"""Image-Chat: two people with given styles talk about one photograph, which all turns share."""

import collections
import functools
import pathlib
from collections.abc import Collection

import numpy as np

from igerg_jax import storage
from igerg_jax.data import image_files, image_gate
from igerg_jax.data.builders import source
from igerg_jax.errors import UserError

INFO = source.Info(
    description="""\
Image-Chat: 202,000 dialogues of up to three turns about as many photographs of YFCC100M; each
speaker has one of 215 styles. No turn is labelled with an emotion.""",
    citation="""\
@inproceedings{shuster2020image,
  title = {Image-Chat: Engaging Grounded Conversations},
  author = {Shuster, Kurt and Humeau, Samuel and Bordes, Antoine and Weston, Jason},
  booktitle = {Proceedings of ACL}, year = {2020}
}""",
    license="CC BY 4.0; photographs: those of YFCC100M, Creative Commons",
    homepage="https://parl.ai/projects/image_chat",
    labels="",
    files="""\
Put train.json, valid.json and test.json of image_chat.tgz there, in a folder image_chat/, and the
photographs beside them as yfcc_images/<image_hash>.jpg; see https://parl.ai/projects/image_chat.
ParlAI (parlai display_data -t image_chat) fetches both.""",
    extra={"style": (str, ())},
)
_FOLDERS = ("yfcc_images", "images")


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}. Raises UserError when files are missing or have another form."""

    def find(folder: pathlib.Path) -> dict[str, pathlib.Path]:
        return source.split_files([folder], "{}.json")

    tables = source.locate(options, "image_chat", INFO, find)
    folder = tables[next(iter(tables))].parent
    places = (source.first_existing(place, _FOLDERS) for place in (folder, folder.parent))
    images = next(filter(None, places), None)
    if images is None:
        raise INFO.missing(f"there is no folder yfcc_images in '{folder}'")
    read = {split: _read(path, images.name) for split, path in tables.items()}
    named = {row["image_id"] for rows, _ in read.values() for row in rows}
    first = next(iter(read))
    return {
        split: ChatTurns(rows, images, remarks, named if split == first else None)
        for split, (rows, remarks) in read.items()
    }


def _read(path: pathlib.Path, folder: str) -> tuple[list[dict], dict[str, int]]:
    """The turns of a split, whose images are in the folder of that name, and remarks on them."""
    rows: list[dict] = []
    episode = wordless = 0
    try:
        for chat in _list(storage.from_json(source.read_text(path))):
            place = 0
            for number, turn in enumerate(_list(chat["dialog"])):
                style, text = _list(turn)
                if not _text(text).strip():
                    wordless += 1
                    continue
                name = f"{folder}/{_file_name(chat['image_hash'])}.jpg"
                extra = {"speaker": "AB"[number % 2], "image_id": name, "style": _text(style)}
                rows.append(source.row(episode, place, text, **extra))
                place += 1
            episode += place > 0
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is not Image-Chat's list of dialogues: {error!r}") from error
    return rows, {"turns without words are left out": wordless}


def _list(value: object) -> list:
    """A list of the file. Raises TypeError for anything else."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is not a list")
    return value


def _file_name(value: object) -> str:
    """A name of the file, without folders. Raises TypeError for anything else."""
    name = _text(value)
    if "/" in name or not name.isprintable():
        raise TypeError(f"{name!r:.40} is not the name of an image")
    return name


def _text(value: object) -> str:
    """A text of the file; "" for null. Raises TypeError for anything else."""
    if not isinstance(value, str | None):
        raise TypeError(f"{value!r:.40} is not a text")
    return value or ""


class ChatTurns(source.ListedTurns):
    """Turns whose photograph lies in `images`; the turns of a chat share it.

    Args:
      named: the image_ids of all splits, given to the one that counts the files besides them.
    """

    def __init__(
        self,
        rows: list[dict],
        images: pathlib.Path,
        remarks: dict[str, int],
        named: Collection[str] | None,
    ):
        super().__init__(rows, remarks)
        self._images, self._named = images, named
        names = np.array([row["image_id"] for row in rows])
        self._keys = np.unique(names, return_inverse=True)[1].astype(np.int64)

    @property
    def image_keys(self) -> np.ndarray:
        return self._keys

    @functools.cached_property
    def passed_over(self) -> collections.Counter[str]:
        """What else is in the folder; it is listed when somebody asks, for it has many files."""
        if self._named is None:
            return collections.Counter()
        named, place = self._named, self._images.name
        listing = image_files.find(self._images, lambda name: f"{place}/{name}" not in named)
        others = collections.Counter({image_files.UNNAMED: len(listing.names)})
        return +(listing.passed_over + others)

    def image(self, i: int) -> bytes | None:
        return image_gate.read_file(self._images.parent / self.row(i)["image_id"])


DATASET = source.RawDataset(
    version="1.2.0",
    info=INFO,
    configs={"full": "All dialogues."},
    layout=lambda config: source.Layout(images="some"),
    splits=splits,
)
