"""Draws the images in docs/faces: a sheet of all expressions, and one face of each emotion.

    python -m igerg_jax.tools.draw_faces docs/faces

open_peeps.png shows the label of each expression; its first line explains the colours. joy.jpg and
the others, for `--mode=generate`, are images like those the model is trained on: people of the test
split, with an expression of the train split.
"""

import argparse
import pathlib
import random

from PIL import Image, ImageDraw, ImageFont

from igerg_jax.batch import EMOTIONS
from igerg_jax.data.builders.chitchat_peeps import drawing, peeps

_GREY = drawing.Background(near="#dddddd", far="#dddddd", downwards=True)
_SPLIT_COLOUR = {"train": "#000000", "valid": "#0050c0", "test": "#c00000", "unused": "#777777"}
_LEGEND = (
    ("EYES / MOUTH: the eyes of one drawing, the mouth of another.", "train"),
    ("Black: train, and half of the faces of valid and test.", "train"),
    ("Blue: valid alone.", "valid"),
    ("Red: test alone.", "test"),
)
_COLUMNS, _TILE, _TITLE, _CAPTION = 17, 92, 22, 30  # the last three in pixels
_PALETTE = 64  # colours; enough for flat drawings, and a third of the file


def sheet_rows() -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns [(emotion, [(expression, split), ...]), ...]; last, the names that are not used.

    Expressions as the artist drew them come before the combined ones.
    """
    rows = []
    for emotion in EMOTIONS:
        entries = [(e, split) for split, by in peeps.EXPRESSIONS.items() for e in by[emotion]]
        rows.append((emotion, sorted(entries, key=lambda entry: "/" in entry[0])))
    used = {expression for _, entries in rows for expression, _ in entries}
    unused = [(name, "unused") for name in drawing.names("expression") if name not in used]
    return [*rows, ("as drawn, not used", unused)]


def sheet() -> Image.Image:
    """Returns all expressions on one head."""
    lines = [
        (title if i == 0 else "", entries[i : i + _COLUMNS])
        for title, entries in sheet_rows()
        for i in range(0, len(entries), _COLUMNS)
    ]
    height = sum((_TITLE if title else 0) + _TILE + _CAPTION for title, _ in lines)
    image = Image.new("RGB", (_COLUMNS * _TILE, _TITLE + height), "white")
    x, y = 4, _TITLE
    for words, split in _LEGEND:
        x += _write(image, (x, 3), words, _SPLIT_COLOUR[split], 13) + 12
    for title, entries in lines:
        if title:
            _write(image, (4, y + 2), title, "#000000", 15)
            y += _TITLE
        for column, (expression, split) in enumerate(entries):
            x = column * _TILE
            peep = drawing.Peep("short2", expression, "", "", "#edb98a", "#a55728", "#8fa7df")
            tile = drawing.render(peep, drawing.UPRIGHT, _GREY, _TILE - 4)
            image.paste(tile, (x + 2, y))
            caption, colour = expression.replace("/", " /\n"), _SPLIT_COLOUR[split]
            _write(image, (x + 3, y + _TILE - 3), caption, colour, 10)
        y += _TILE + _CAPTION
    return image.quantize(_PALETTE)


def example(emotion: str) -> bytes:
    """Returns a JPEG of somebody in the test split with the emotion's first expression of train."""
    head = peeps.HEADS["test"][EMOTIONS.index(emotion)]
    expression = peeps.EXPRESSIONS["train"][emotion][0]
    rng = random.Random(emotion)
    skin, clothing = (rng.choice(drawing.colours(name)) for name in ("skin", "clothing"))
    return peeps.draw(drawing.Peep(head, expression, "", "", skin, "#a55728", clothing), rng)


def _write(image: Image.Image, at: tuple[int, int], text: str, colour: str, size: int) -> int:
    """Writes a text and returns its width in pixels."""
    font, draw = ImageFont.load_default(size), ImageDraw.Draw(image)
    draw.multiline_text(at, text, fill=colour, font=font, spacing=1)
    return round(draw.multiline_textbbox((0, 0), text, font=font)[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="where the images are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    sheet().save(folder / "open_peeps.png", optimize=True)
    for emotion in EMOTIONS:
        (folder / f"{emotion}.jpg").write_bytes(example(emotion))


if __name__ == "__main__":
    main()
