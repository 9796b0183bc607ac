"""Image-Chat: two people with given styles talk about one photograph, which all turns share."""

import json
import pathlib

import numpy as np

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
    return {split: _read(path, images) for split, path in tables.items()}


def _read(path: pathlib.Path, images: pathlib.Path) -> source.Turns:
    rows = []
    try:
        for episode, chat in enumerate(json.loads(path.read_text(encoding="utf-8"))):
            for place, (style, text) in enumerate(chat["dialog"]):
                name = f"{images.name}/{chat['image_hash']}.jpg"
                speaker = "AB"[place % 2]
                extra = {"speaker": speaker, "image_id": name, "style": style}
                rows.append(source.row(episode, place, text, **extra))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is not Image-Chat's list of dialogues: {error!r}") from error
    return ChatTurns(rows, images)


class ChatTurns(source.ListedTurns):
    """Turns whose photograph lies in `images`; the turns of a chat share it."""

    def __init__(self, rows: list[dict], images: pathlib.Path):
        super().__init__(rows)
        self._images = images
        names = np.array([row["image_id"] for row in rows])
        self._keys = np.unique(names, return_inverse=True)[1].astype(np.int64)

    @property
    def image_keys(self) -> np.ndarray:
        return self._keys

    def image(self, i: int) -> bytes | None:
        return source.read_bytes(self._images.parent / self.row(i)["image_id"])


DATASET = source.RawDataset(
    version="1.1.0",
    info=INFO,
    configs={"full": "All dialogues."},
    layout=lambda config: source.Layout(images="some"),
    splits=splits,
)
