"""Encoded images: conversion to JPEG for storage, and ImageNet's preprocessing."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_IMAGENET_MARGIN = 256 / 224  # the shorter side before the crop, relative to the crop's


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
    except (
        Image.DecompressionBombError,
        SyntaxError,
    ) as error:  # not OSErrors
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
    made = np.zeros((len(jpeg_M), side, side, 3), np.uint8)
    for image, jpeg in zip(made, jpeg_M, strict=True):
        if jpeg:
            image[:] = imagenet_crop(jpeg, side)
    return made
