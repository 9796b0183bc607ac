"""The one place where an image is opened: what may be read, and what its pixels mean.

An image is a picture in one of `FORMATS`, of at most MAX_PIXELS, in a regular file. It is shown
upright (EXIF orientation), in 8-bit RGB, and its transparent parts lie on BACKGROUND. Whatever
Pillow raises for one image becomes `BrokenImage`, so that no single file stops the preparation.
Imports neither JAX nor TensorFlow.
"""

import contextlib
import errno
import functools
import io
import os
import pathlib
import stat
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from igerg_jax.errors import UserError

# {Pillow's name of a format: the endings of its files}. Pillow tells formats by their content, and
# would otherwise try all it knows: EPS runs Ghostscript, others follow links in the file.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # an MPO is a JPEG with others behind it
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "AVIF": (".avif", ".avifs"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
BACKGROUND = (255, 255, 255)  # what transparent parts show: white
MAX_PIXELS = 178_956_970  # Pillow's limit for a "decompression bomb"; 512 MiB as RGB
MAX_FILE_BYTES = 2**30
JPEG_QUALITY, SCALED_QUALITY = 95, 90  # the second of images that are scaled down to save space
_JPEG_SIDE = 65_500  # pixels: libjpeg's limit

# Each about one image, which they do not name; MAX_PIXELS is our own limit.
warnings.filterwarnings("ignore", module=r"PIL\.")

_UPRIGHT = {  # {EXIF orientation: what undoes it}
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow multiplies a PNG's grey levels of fewer bits by this, but not its transparent level.
_LEVEL = {"L;2": 85, "L;4": 17}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
# JPEG's frame markers, and those of the frames that every decoder reads.
_FRAMES = tuple(bytes([m]) for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC))
_COMMON_FRAMES = _FRAMES[:3]
_END_OF_IMAGE = b"\xff\xd9"
_INTEGER_TOPS, _FLOAT_TOPS = (255, 2**16 - 1, 2**31 - 1, 2**32 - 1), (1, 255, 2**16 - 1)
_LARGEST = 1e38  # so that the range, also a symmetric one, is a float32
_OVERSHOOT = 1.25  # how far beyond white floating point may go: sharpening and resizing do that


class BrokenImage(ValueError):
    """Bytes that are not an image, or a damaged or unsupported one; the message says why."""


def read_file(path: pathlib.Path) -> bytes | None:
    """Returns a file's bytes; None without such a file; b"" if the path cannot hold an image.

    Such paths are folders, pipes, devices and sockets, which are not opened, and files of more than
    MAX_FILE_BYTES. Raises UserError when the file exists but cannot be read: such an image is not
    merely broken.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            return b""
        # If a pipe has replaced the file meanwhile, opening it does not block.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            return file.read()
    except (FileNotFoundError, ValueError):  # ValueError: not a file name, such as "\0"
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself leads nowhere
            return None
        raise UserError(f"cannot read '{path}': {error.strerror}") from error


def read_rgb(data: bytes) -> Image.Image:
    """Returns an encoded image as it is meant to be seen: upright, mode RGB, on BACKGROUND.

    Grey of 16 bits, 32 bits or floating point is scaled to 0..255 by the range of its type. An
    animation gives its first frame. Raises BrokenImage.
    """
    with _as_broken_image():
        return _rgb(_open(data))


def as_jpeg(data: bytes, short_side: int = 0) -> tuple[bytes, tuple[int, int]]:
    """Returns (JPEG bytes, (height, width)) of an encoded image as it is meant to be seen.

    The bytes are `data` itself if that is an upright JPEG in RGB or grey (the decoder returns three
    channels anyway); anything else is re-encoded, because TensorFlow ignores EXIF orientation.

    Args:
      short_side: an image whose shorter side has more pixels is scaled down to as many; 0 = none.

    Raises:
      BrokenImage: it can't be read.
    """
    with _as_broken_image():
        image = _open(data)
        if image.format == "JPEG" and image.mode in ("RGB", "L") and _is_common_jpeg(data):
            size = (image.height, image.width)
            image.draft(image.mode, (1, 1))  # the smallest scale suffices to notice truncation
            image.load()
            is_small = not short_side or min(size) <= short_side
            if _orientation(image) not in _UPRIGHT and is_small:
                return data, size
            image = _open(data)
        if max(image.size) > _JPEG_SIDE:
            raise BrokenImage(f"{image.width} x {image.height} pixels: a side over {_JPEG_SIDE:,}")
        image = _rgb(image)
        scaled = _scaled_down(image, short_side)
        quality = JPEG_QUALITY if scaled is image else SCALED_QUALITY
        out = io.BytesIO()
        scaled.save(out, "JPEG", quality=quality)
        return out.getvalue(), (scaled.height, scaled.width)


def _scaled_down(image: Image.Image, short_side: int) -> Image.Image:
    """An image whose shorter side has at most `short_side` pixels; 0 = as it is."""
    factor = short_side / min(image.size)
    if not 0 < factor < 1:
        return image
    width, height = (max(short_side, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def file_as_jpeg(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
    """`as_jpeg` of a file that a user names. Raises UserError, which says what is wrong."""
    data = read_file(path)
    if data is None:
        raise UserError(f"image '{path}' does not exist")
    try:
        return as_jpeg(data)
    except BrokenImage as error:
        raise UserError(
            f"cannot read image '{path}', give a PNG or JPEG file, for instance: {error}"
        ) from error


@contextlib.contextmanager
def _as_broken_image() -> Iterator[None]:
    """Turns whatever Pillow's readers raise, exceptions of many types, into BrokenImage."""
    try:
        yield
    except BrokenImage:
        raise
    except UnidentifiedImageError as error:  # its own message has an address in memory
        raise BrokenImage(f"no image in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:
        reason = (str(error).strip().split("\n"))[0]
        raise BrokenImage(f"{type(error).__name__}: {reason}") from error


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes) -> Image.Image:
    """Reads an image's header. May raise anything."""
    if not data:
        raise BrokenImage("empty, or not a regular file")
    image = Image.open(io.BytesIO(data), formats=_known_formats())
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImage(f"{image.width} x {image.height} pixels: more than {MAX_PIXELS:,}")
    return image


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata of a picture that can be seen
        return None


def _is_common_jpeg(data: bytes) -> bool:
    """Whether a JPEG is baseline, extended or progressive with Huffman codes, and has its end.

    Not every decoder reads others, such as those with arithmetic codes. Without its end marker, a
    JPEG is read by Pillow but not by TensorFlow. A JPEG with unknown bytes before its first frame
    counts as a common one.
    """
    at = 2
    while data[at : at + 1] == b"\xff":
        marker = data[at + 1 : at + 2]
        if marker in _FRAMES:
            return marker in _COMMON_FRAMES and _END_OF_IMAGE in data[at:]
        at += 1 if marker == b"\xff" else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return _END_OF_IMAGE in data


def _rgb(image: Image.Image) -> Image.Image:
    """What `read_rgb` returns, of an image that is not decoded yet."""
    raw_mode = str(image.tile[0][3]) if image.tile else ""
    image.load()  # a TIFF is turned upright by this, and has no orientation afterwards
    upright = _UPRIGHT.get(_orientation(image))
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    elif "transparency" in image.info and image.format == "PNG":
        image.info["transparency"] = _transparent_level(image.info["transparency"], raw_mode)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    elif image.has_transparency_data:
        image = _on_background(image)
    image = image.convert("RGB")
    return image if upright is None else image.transpose(upright)


def _transparent_level(level: object, raw_mode: str) -> object:
    """A PNG's transparent level or colour, in the file's bits, as one of Pillow's 8-bit pixels."""
    if isinstance(level, tuple) and ";16" in raw_mode:
        return tuple(part >> 8 for part in level)
    return level * _LEVEL.get(raw_mode, 1) if isinstance(level, int) else level


def _on_background(image: Image.Image) -> Image.Image:
    """Puts an image with transparency on BACKGROUND."""
    if image.mode == "La":  # converts only to LA
        image = image.convert("LA")
    ground = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(ground, image.convert("RGBA"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales modes I;16, I and F to mode L, or LA where a grey level is transparent.

    Black and white are the ends of the type's range: 0 and 65,535 for 16 bits. Types of 32 bits do
    not say; their range ends with the first of _INTEGER_TOPS that no pixel exceeds, or of
    _FLOAT_TOPS that none exceeds by more than _OVERSHOOT. With negative numbers the range is
    symmetric.
    """
    tags = getattr(image, "tag_v2", {})
    values_HxW = np.asarray(image)
    bits = int(np.max(tags.get(_BITS_PER_SAMPLE, 16)))
    if image.mode.startswith("I;") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        top = float(2**bits - 1)
    elif image.mode == "I" and bits == 16:
        top = float(2**15 - 1)
    else:
        if image.mode == "I" and int(np.max(tags.get(_SAMPLE_FORMAT, _UNSIGNED))) == _UNSIGNED:
            values_HxW = values_HxW.view(np.uint32)
        finite = values_HxW[np.isfinite(values_HxW)]
        largest = float(np.abs(finite.astype(np.float64)).max(initial=0))
        tops = _FLOAT_TOPS if image.mode == "F" else _INTEGER_TOPS
        reach = _OVERSHOOT if image.mode == "F" else 1
        top = float(next((top for top in tops if largest <= top * reach), min(largest, _LARGEST)))
    lowest = float(values_HxW[np.isfinite(values_HxW)].min(initial=0))
    low = -top if lowest < -top / 255 else 0.0  # smaller ones are rounding errors
    known = np.nan_to_num(values_HxW.astype(np.float32), nan=low, posinf=top, neginf=low)
    share_HxW = (np.clip(known, low, top) - low) / (top - low)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        share_HxW = 1 - share_HxW
    grey = Image.fromarray(np.rint(share_HxW * 255).astype(np.uint8))
    level = image.info.get("transparency")
    if isinstance(level, int):
        grey.putalpha(Image.fromarray(np.where(values_HxW == level, 0, 255).astype(np.uint8)))
    return grey
