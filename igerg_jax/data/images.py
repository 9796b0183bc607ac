"""Encoded images: their files, conversion to JPEG for storage, and ImageNet's preprocessing."""

import glob
import io
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from igerg_jax.data.builders.source import IMAGE_SUFFIXES
from igerg_jax.errors import UserError

_IMAGENET_MARGIN = 256 / 224  # the shorter side before the crop, relative to the crop's


class Files(NamedTuple):
    """Image files below one folder: their names below it, with slashes, sorted."""

    folder: pathlib.Path
    names: tuple[str, ...]


def find_files(pattern: str) -> Files:
    """The images below a folder, or those that match a glob pattern ("**" = any depth).

    A pattern's folder is the part before its first wildcard. If that is a dataset's folder, the
    names equal the dataset's `image_id`s, such as "train_images/17.jpg" for OpenViDial. Raises
    UserError if there are no images.
    """
    path = pathlib.Path(pattern).expanduser()
    wild = [i for i, part in enumerate(path.parts) if glob.has_magic(part)]
    if path.is_dir() or not wild:
        folder, paths = path, path.rglob("*")
    else:
        folder = pathlib.Path(*path.parts[: wild[0]])
        paths = map(pathlib.Path, glob.iglob(str(path), recursive=True))
    images = (p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    names = tuple(sorted({p.relative_to(folder).as_posix() for p in images}))
    if not names:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"--images '{pattern}' is no folder or pattern with image files ({kinds})")
    return Files(folder, names)


def as_jpeg(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """Returns (JPEG bytes, (height, width)); the bytes are `data` itself if that is a JPEG.

    Grey JPEGs stay grey; the decoder returns three channels anyway.

    Raises OSError or ValueError when it is no image, or a truncated one.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = (image.height, image.width)
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, (1, 1))  # the smallest scale suffices to notice truncation
                image.load()
                return data, size
            out = io.BytesIO()
            image.convert("RGB").save(out, "JPEG", quality=95)
            return out.getvalue(), size
    except (Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(str(error)) from error


def imagenet_crop(jpeg: bytes, side: int) -> np.ndarray:
    """uint8[side, side, 3]: the standard preprocessing of ResNets for evaluation on ImageNet.

    Resizes the shorter side to 256 pixels (for a `side` of 224) with Pillow's antialiasing bilinear
    filter, then takes the centre crop. Rounds like torchvision's Resize and CenterCrop.
    """
    with Image.open(io.BytesIO(jpeg)) as image:
        image = image.convert("RGB")
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
