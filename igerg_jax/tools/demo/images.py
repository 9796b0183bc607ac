"""The demo's images: checks of uploads, pixels as text for the page, and drawn faces of people whom
the model has not been trained on.
"""

import base64
import functools
import io
import random

import numpy as np
from PIL import Image

from igerg_jax.batch import EMOTION_ID
from igerg_jax.data.builders.chitchat_peeps import peeps
from igerg_jax.data.images import as_png
from igerg_jax.errors import UserError, check_known

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 40_000_000  # of an upload: 120 MB when decoded
FACE_SETS = 1000  # of seven drawn faces each
PAGE_PIXELS = 216  # per side of a drawn face on the page


def check_upload(data: bytes) -> None:
    """Raises UserError for an upload in no known format, or with too many pixels.

    Only its header is read, so nothing is decoded that would take Pillow minutes or gigabytes.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise UserError(f"the image has more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow's readers raise many kinds
        raise UserError(f"that is not an image in a known format ({', '.join(FORMATS)})") from error
    if width * height > MAX_PIXELS:
        raise UserError(f"the image has {width} x {height} pixels: more than {MAX_PIXELS:,}")


def to_text(pixels: np.ndarray) -> str:
    """Pixels (uint8 [H, W, 3]) as a base64 PNG."""
    return base64.b64encode(as_png(pixels)).decode()


def from_text(text: object, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the inverse of `to_text`. Raises UserError for any other text."""
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size == (side, side) and image.mode == "RGB":
                return np.asarray(image)
    except Exception:  # Pillow's readers raise many kinds
        pass
    raise UserError(f"'pixels' must be an RGB PNG of {side} x {side} pixels, in base64")


@functools.lru_cache(maxsize=256)
def drawn_face(number: int, emotion: str, for_page: bool) -> bytes:
    """A JPEG of a held-out person whose face shows an emotion.

    Args:
      number: of the set, of `FACE_SETS`.
      for_page: draws the same image larger than those that the model was trained on.

    Raises:
      UserError: no such set or emotion.
    """
    check_known(emotion, EMOTION_ID, f"there is no emotion '{emotion}'")
    if not 0 <= number < FACE_SETS:
        raise UserError(f"there is no set {number} of faces: they are 0 to {FACE_SETS - 1}")
    rng = random.Random(f"{number}/{emotion}")
    peep = peeps.pick("test", EMOTION_ID[emotion], rng)
    return peeps.draw(peep, rng, PAGE_PIXELS if for_page else peeps.IMAGE_PIXELS)
