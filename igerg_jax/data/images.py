"""Image files below a folder, and ImageNet's preprocessing of stored images."""

from __future__ import annotations

import collections
import functools
import glob
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from igerg_jax.data import image_files, image_gate
from igerg_jax.errors import UserError

_IMAGENET_MARGIN = 256 / 224  # the shorter side before the crop, relative to the crop's


class Files(NamedTuple):
    """Image files below one folder.

    Attributes:
      names: below the folder, with slashes, sorted.
      passed_over: how many others there are, as in `image_files.Found`.
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
    path = pathlib.Path(pattern).expanduser()
    wild = [i for i, part in enumerate(path.parts) if glob.has_magic(part)]
    if path.is_dir():
        folder, (names, passed_over) = path, image_files.find(path)
    elif wild:
        folder = pathlib.Path(*path.parts[: wild[0]])
        names, passed_over = _matching(path, folder)
    else:
        folder, names, passed_over = path, [], collections.Counter()
    if not names:
        kinds = ", ".join(image_gate.SUFFIXES)
        raise UserError(f"--images '{pattern}' is no folder or pattern with image files ({kinds})")
    return Files(folder, tuple(names), passed_over)


def _matching(path: pathlib.Path, folder: pathlib.Path) -> image_files.Found:
    """The images below `folder` that match a pattern."""
    found = image_files.Found([], collections.Counter())
    comes_back = functools.cache(functools.partial(_comes_back, folder))
    for match in sorted(set(map(pathlib.Path, glob.iglob(str(path), recursive=True)))):
        name = match.relative_to(folder).as_posix()
        if match.is_dir() or image_files.is_hidden(name) or comes_back(match.parent):
            continue
        if reason := image_files.passed_over_reason(name):
            found.passed_over[reason] += 1
        elif match.is_file() or not match.exists():  # a link that leads nowhere is a broken image
            found.names.append(name)
        else:
            found.passed_over[image_files.NOT_REGULAR] += 1
    return found


def _comes_back(folder: pathlib.Path, inner: pathlib.Path) -> bool:
    """Whether the path from `folder` to `inner` goes by a link back to a folder above the link."""
    above, at = [folder.resolve(), *folder.resolve().parents], folder
    for part in inner.relative_to(folder).parts:
        at = at / part
        if at.resolve() in above:
            return True
        above.append(at.resolve())
    return False


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
