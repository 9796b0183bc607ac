"""Encoded images as they are stored: JPEG, and nothing that cannot be decoded."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_IMAGENET_MARGIN = 256 / 224  # the shorter side before the crop, relative to the crop's


def as_jpeg(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """Returns (JPEG bytes, (height, width)): `data` itself if that is what it holds.

    Grey JPEGs stay as they are; the decoder gives them three channels.

    Raises OSError or ValueError when it is no image that can be decoded to its end.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = (image.height, image.width)
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, (1, 1))  # the smallest there is: enough to see a cut
                image.load()
                return data, size
            out = io.BytesIO()
            image.convert("RGB").save(out, "JPEG", quality=95)
            return out.getvalue(), size
    except (
        Image.DecompressionBombError,
        SyntaxError,
    ) as error:  # not OSErrors
        raise ValueError(str(error)) from error


def imagenet_crop(jpeg: bytes, side: int) -> np.ndarray:
    """uint8[side, side, 3]: the preprocessing that ResNets are evaluated on ImageNet with.

    The shorter side becomes 256 pixels (for a `side` of 224) by Pillow's bilinear filter, which
    covers all pixels of a larger image; then the middle is cut out. Sizes and places are rounded
    as torchvision's Resize and CenterCrop round them.
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
    """uint8[M, side, side, 3]: `imagenet_crop` of each, zero where there are no bytes."""
    made = np.zeros((len(jpeg_M), side, side, 3), np.uint8)
    for image, jpeg in zip(made, jpeg_M, strict=True):
        if jpeg:
            image[:] = imagenet_crop(jpeg, side)
    return made
