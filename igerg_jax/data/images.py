"""Image files below a folder, images as PNG and as data URLs, and ImageNet's preprocessing."""

import base64
import collections
import fnmatch
import glob
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from igerg_jax import storage
from igerg_jax.data import image_files, image_gate
from igerg_jax.errors import UserError

_IMAGENET_MARGIN = 256 / 224  # the shorter side before the crop, relative to the crop's


class Files(NamedTuple):
    """Image files below one folder.

    Attributes:
      names: below the folder, with slashes, sorted.
      passed_over: counts of the other files, as in `image_files.ImageListing`.
    """

    folder: pathlib.Path
    names: tuple[str, ...]
    passed_over: Mapping[str, int]


def find_files(pattern: str) -> Files:
    """The images below a folder, or those that match a glob pattern ("**" = any depth).

    Links to folders are followed. A pattern's folder is the part before its first wildcard. If that
    is a dataset's folder, the names equal the dataset's `image_id`s, such as "train_images/17.jpg"
    for OpenViDial. Raises UserError if there are no images.
    """
    path = storage.local_path(pattern)
    wild = [i for i, part in enumerate(path.parts) if glob.has_magic(part)]
    if path.is_dir():
        folder, (names, passed_over) = path, image_files.find(path)
    elif wild:
        folder, inner = pathlib.Path(*path.parts[: wild[0]]), path.parts[wild[0] :]
        names, passed_over = [], collections.Counter()
        if folder.is_dir():
            names, passed_over = image_files.find(
                folder, lambda name: _matches(name.split("/"), inner)
            )
    else:
        folder, names, passed_over = path, [], collections.Counter()
    if not names:
        kinds = ", ".join(image_gate.SUFFIXES)
        raise UserError(
            f"--images '{pattern}' is not a folder or a pattern with image files ({kinds})"
        )
    return Files(folder, tuple(names), passed_over)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a name match those of a glob pattern.

    Not `glob.glob`, which never ends where two links lead back to folders above them.
    """
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    same = bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0])
    return same and _matches(parts[1:], pattern[1:])


def as_png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 [H, W, 3] or [H, W], without loss."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def data_url(image: bytes, kind: str) -> str:
    """The address of an image inside a page; `kind` is "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def imagenet_crop(jpeg: bytes, side: int) -> np.ndarray:
    """uint8[side, side, 3]: the standard preprocessing of ResNets for evaluation on ImageNet.

    Resizes the shorter side to 256 pixels (for a `side` of 224) with Pillow's antialiasing bilinear
    filter, then takes the centre crop. Rounds like torchvision's Resize and CenterCrop.
    """
    image = image_gate.read_rgb(jpeg)
    shorter = round(side * _IMAGENET_MARGIN)
    width, height = image.size
    if width <= height:
        size = shorter, int(shorter * height / width)
    else:
        size = int(shorter * width / height), shorter
    left, top = (round((s - side) / 2) for s in size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def imagenet_crops(side: int, jpeg_M: np.ndarray) -> np.ndarray:
    """uint8[M, side, side, 3]: `imagenet_crop` of each; zero for empty bytes."""
    empty = np.zeros((side, side, 3), np.uint8)
    return np.stack([imagenet_crop(jpeg, side) if jpeg else empty for jpeg in jpeg_M])
