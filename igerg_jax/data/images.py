"""Encoded images as they are stored: JPEG, and nothing that cannot be decoded."""

from __future__ import annotations

import io

from PIL import Image


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
