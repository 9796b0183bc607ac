"""Augmentation parameters of each image: a pure function of (seed, position, slot).

NumPy only; `igerg_jax.data.input_graph` applies them. They depend on the position of the image's
example in the order (`igerg_jax.data.order`) and on its slot, so they are the same on any number of
hosts and after a restart, and differ between epochs.
"""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.data import order

_SALT = 0x1A9E  # keeps these numbers apart from other uses of (seed, position)
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_MIN_ERASED_AREA = 0.02  # of the image, as in the paper
_MAX_ASPECT = 4 / 3  # of a crop, either way; as in the Inception papers' random resized crop


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to decode and augment M images.

    Attributes:
      crop: int32[M, 4], (top, left, height, width) in pixels of the decoded image.
      halvings: int32[M], 0..3: the decoder downscales by 2**halvings, which is cheaper than full
        decoding and leaves less than a factor of two to the bilinear resize, so that it needs no
        antialiasing.
      flip: bool[M], mirror horizontally.
      colour, offset: float32[M, 3, 3] and [M]: RGB in 0..255 becomes colour @ RGB + offset.
      erase: int32[M, 4], (top, left, height, width) in pixels of the result, which become grey.
    """

    crop: np.ndarray
    halvings: np.ndarray
    flip: np.ndarray
    colour: np.ndarray
    offset: np.ndarray
    erase: np.ndarray


def random_recipe(
    height_width: np.ndarray,
    seed: int,
    positions_M: np.ndarray,
    slots_M: np.ndarray,
    image_size: int,
    config: ConfigDict,
) -> Recipe:
    """Random resized crop, flip, colour jitter and erasing.

    Args:
      height_width: int[M, 2] pixels of the encoded images.
      positions_M: int64[M], of each image's example in the order.
      slots_M: int[M], of each image in its window.
      image_size: pixels a side of the result.
      config: `config.data.augment`: crop_min_area (of the image; 1 = the largest square, anywhere
        along the longer side), flip (bool), colour_jitter (largest relative change of brightness,
        contrast and saturation), erase_probability, erase_max_area (of the image).
    """
    u_Mx13 = order.uniforms(seed, _SALT, positions_M[:, None], slots_M[:, None], np.arange(13))
    crop, halvings = _halve(_random_crop(height_width, config.crop_min_area, u_Mx13), image_size)
    factors_Mx3 = 1 + config.colour_jitter * (2 * u_Mx13[:, 5:8] - 1)
    colour, offset = colour_matrix(*factors_Mx3.T)
    erase = _random_rectangle(image_size, config.erase_max_area, u_Mx13[:, 8:12])
    erase[u_Mx13[:, 12] >= config.erase_probability] = 0
    return Recipe(crop, halvings, (u_Mx13[:, 4] < 0.5) & config.flip, colour, offset, erase)


def plain_recipe(height_width: np.ndarray, image_size: int) -> Recipe:
    """No augmentation: the largest centred square of images of int[M, 2] pixels."""
    side = height_width.min(axis=1, keepdims=True)
    corner = (height_width - side) // 2
    crop = np.concatenate([corner, side, side], axis=1).astype(np.int32)
    crop, halvings = _halve(crop, image_size)
    colour, offset = colour_matrix(*np.ones((3, len(crop))))
    nothing = np.zeros((len(crop), 4), np.int32)
    return Recipe(crop, halvings, np.zeros(len(crop), bool), colour, offset, nothing)


def _halve(crop: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales int32[M, 4] crops to the downscaled image; returns them and int32[M] halvings."""
    shortest = np.maximum(crop[:, 2:].min(axis=1, initial=np.iinfo(np.int32).max), 1)
    halvings = np.clip(np.floor(np.log2(shortest / image_size)), 0, 3).astype(np.int32)
    return crop >> halvings[:, None], halvings


def _random_rectangle(image_size: int, max_area: float, u_Mx4: np.ndarray) -> np.ndarray:
    """int32[M, 4] inside the image; of random area, aspect ratio, top and left.

    Random erasing (Zhong et al. 2020, https://arxiv.org/abs/1708.04896), with aspects up to 3.
    """
    area, aspect, top, left = u_Mx4.T
    smallest = min(_MIN_ERASED_AREA, max_area)
    pixels = image_size**2 * (smallest + (max_area - smallest) * area)
    ratio = 3.0 ** (2 * aspect - 1)
    height = np.clip(np.round(np.sqrt(pixels / ratio)), 1, image_size)
    width = np.clip(np.round(np.sqrt(pixels * ratio)), 1, image_size)
    corner_top = np.floor(top * (image_size - height + 1))
    corner_left = np.floor(left * (image_size - width + 1))
    return np.stack([corner_top, corner_left, height, width], axis=1).astype(np.int32)


def _random_crop(height_width: np.ndarray, min_area: float, u_Mx13: np.ndarray) -> np.ndarray:
    """int32[M, 4]; the first four uniform numbers give the area, aspect ratio, top and left."""
    area, aspect, top, left = u_Mx13.T[:4]
    height, width = height_width.T.astype(np.float64)
    if min_area < 1:
        pixels = height * width * (min_area + (1 - min_area) * area)
        ratio = np.exp(np.log(_MAX_ASPECT) * (2 * aspect - 1))
        crop_height = np.clip(np.round(np.sqrt(pixels / ratio)), 1, height)
        crop_width = np.clip(np.round(np.sqrt(pixels * ratio)), 1, width)
    else:  # the square that evaluation takes from the centre, with its aspect
        crop_height = crop_width = np.minimum(height, width)
    corner_top = np.floor(top * (height - crop_height + 1))
    corner_left = np.floor(left * (width - crop_width + 1))
    return np.stack([corner_top, corner_left, crop_height, crop_width], axis=1).astype(np.int32)


def colour_matrix(
    brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """float32[M, 3, 3] and [M] from factors, each float[M]; contrast turns about mid-grey."""
    grey_3x3 = np.broadcast_to(_LUMA, (3, 3))
    s = saturation[:, None, None]
    linear = (brightness * contrast)[:, None, None] * (s * np.eye(3) + (1 - s) * grey_3x3)
    return linear.astype(np.float32), (127.5 * (1 - contrast)).astype(np.float32)
