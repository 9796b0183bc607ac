"""Draws every expression on one head, by emotion and split, to see whether the labels are right.

Captions are black for train, blue for valid and red for test. To make the sheet again:

    python -m igerg_jax.data.builders.chitchat_peeps.contact_sheet docs/faces/open_peeps.png
"""

from __future__ import annotations

import argparse
import pathlib

from PIL import Image, ImageDraw, ImageFont

from igerg_jax.batch import EMOTIONS
from igerg_jax.data.builders.chitchat_peeps import drawing, peeps

_HEAD = "short2"
_SKIN, _HAIR, _CLOTHING = "#edb98a", "#a55728", "#8fa7df"
_GREY = drawing.Background(near="#dddddd", far="#dddddd", downwards=True)
_SPLIT_COLOUR = {"train": "#000000", "valid": "#0050c0", "test": "#c00000", "left out": "#777777"}
_COLUMNS, _TILE, _TITLE, _CAPTION = 17, 92, 22, 30  # the last three in pixels
_PALETTE = 64  # colours; enough for flat drawings, and a third of the file


def rows() -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns [(emotion, [(expression, split), ...]), ...]; last, the names that none uses.

    Expressions as the artist drew them come first.
    """
    listed = [
        (emotion, [(e, split) for split in peeps.EXPRESSIONS for e in _of(split, emotion)])
        for emotion in EMOTIONS
    ]
    shown = {expression for _, entries in listed for expression, _ in entries}
    rest = [(n, "left out") for n in drawing.names("expression") if n not in shown]
    listed = [(emotion, sorted(e, key=lambda entry: "/" in entry[0])) for emotion, e in listed]
    return [*listed, ("as drawn, left out", rest)]


def sheet() -> Image.Image:
    """Returns the picture."""
    lines = [
        (title if i == 0 else "", entries[i : i + _COLUMNS])
        for title, entries in rows()
        for i in range(0, len(entries), _COLUMNS)
    ]
    height = sum((_TITLE if title else 0) + _TILE + _CAPTION for title, _ in lines)
    image = Image.new("RGB", (_COLUMNS * _TILE, height), "white")
    y = 0
    for title, entries in lines:
        if title:
            _write(image, (4, y + 2), title, "#000000", 15)
            y += _TITLE
        for column, (expression, split) in enumerate(entries):
            _put(image, (column * _TILE, y), expression, split)
        y += _TILE + _CAPTION
    return image.quantize(_PALETTE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=pathlib.Path, help="the PNG to write")
    path = parser.parse_args().path
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet().save(path, optimize=True)


def _of(split: str, emotion: str) -> tuple[str, ...]:
    return peeps.EXPRESSIONS[split][emotion]


def _put(image: Image.Image, corner: tuple[int, int], expression: str, split: str) -> None:
    peep = drawing.Peep(_HEAD, expression, "", "", _SKIN, _HAIR, _CLOTHING)
    tile = drawing.render(peep, drawing.UPRIGHT, _GREY, _TILE - 4)
    x, y = corner
    image.paste(tile, (x + 2, y))
    caption = expression.replace("/", " /\n")
    _write(image, (x + 3, y + _TILE - 3), caption, _SPLIT_COLOUR[split], 10)


def _write(image: Image.Image, at: tuple[int, int], text: str, colour: str, size: int) -> None:
    font = ImageFont.load_default(size)
    ImageDraw.Draw(image).multiline_text(at, text, fill=colour, font=font, spacing=1)


if __name__ == "__main__":
    main()
