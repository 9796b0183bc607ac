"""Draws a head of Open Peeps: assembles the parts of DiceBear's definition into one SVG.

An expression of Open Peeps is a single drawing of brows, eyes, nose and mouth. Here it is split at
the tip of the nose, so that the eyes of one can be combined with the mouth of another. Beards are
drawn beneath the expression, not over it as in the definition: a black moustache would hide the
black line of a mouth.

Open Peeps by Pablo Stanley, CC0 1.0, from the package `dicebear-styles`.
"""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import re

import resvg_py
from PIL import Image

from igerg_jax.data import image_gate
from igerg_jax.errors import UserError

CITATION = """\
@misc{open_peeps,
  author = {Stanley, Pablo},
  title = {{Open Peeps}: a hand-drawn illustration library},
  url = {https://www.openpeeps.com}
}
"""
LICENSE = "Open Peeps by Pablo Stanley, in DiceBear's remix, CC0 1.0"
FACE_CENTRE = (425.0, 375.0)  # between the eyes and the mouth, in units of the definition
FACE_UNITS = 330.0  # side of the square around the centre that holds the face and little hair
_NOSE_TIP = 150.0  # in the expression's units: paths that start above it belong to the eyes
_LAYERS = ("head", "facialHair", "expression", "accessories")  # from back to front
_INK = "#000000"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_SUBPATH = re.compile(rf"([Mm])\s*({_NUMBER})[\s,]*({_NUMBER})([^Mm]*)")


@dataclasses.dataclass(frozen=True)
class Peep:
    """A person with a facial expression. The names are those of DiceBear's Open Peeps.

    Attributes:
      expression: a name, or "EYES/MOUTH": two names.
      beard, glasses: "" = none.
      skin, hair, clothing: colours, "#rrggbb"; a beard has the colour of the hair.
    """

    head: str
    expression: str
    beard: str
    glasses: str
    skin: str
    hair: str
    clothing: str


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the face is in the picture.

    Attributes:
      centre: of the face, as fractions of the picture's side.
      scale: at 1 the square of FACE_UNITS fills the picture.
      degrees: of clockwise rotation.
      mirrored: whether left and right are swapped.
    """

    centre: tuple[float, float]
    scale: float
    degrees: float
    mirrored: bool


@dataclasses.dataclass(frozen=True)
class Background:
    """A linear gradient between two colours, "#rrggbb": downwards or to the right."""

    near: str
    far: str
    downwards: bool


UPRIGHT = Place(centre=(0.5, 0.5), scale=1.0, degrees=0.0, mirrored=False)


def render(peep: Peep, place: Place, background: Background, pixels: int) -> Image.Image:
    """Returns an RGB image of pixels x pixels."""
    png = resvg_py.svg_to_bytes(
        svg_string=svg(peep, place, background, pixels), skip_system_fonts=True
    )
    return image_gate.read_rgb(png)


def svg(peep: Peep, place: Place, background: Background, pixels: int) -> str:
    """Returns the SVG that `render` draws."""
    zoom = place.scale * pixels / FACE_UNITS
    x, y = (pixels * share for share in place.centre)
    moves = (
        f"translate({x:.3f} {y:.3f}) rotate({place.degrees:.3f})"
        f" scale({-zoom if place.mirrored else zoom:.5f} {zoom:.5f})"
        f" translate({-FACE_CENTRE[0]} {-FACE_CENTRE[1]})"
    )
    end = 'x2="0" y2="1"' if background.downwards else 'x2="1" y2="0"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{pixels}" height="{pixels}" fill="none">'
        f'<linearGradient id="b" x1="0" y1="0" {end}><stop stop-color="{background.near}"/>'
        f'<stop offset="1" stop-color="{background.far}"/></linearGradient>'
        f'<rect width="{pixels}" height="{pixels}" fill="url(#b)"/>'
        f'<g transform="{moves}">{_figure(peep)}</g></svg>'
    )


def names(component: str) -> list[str]:
    """Returns all names of a component: "head", "expression", "facialHair" or "accessories"."""
    return list(_definition()["components"][component]["variants"])


def colours(name: str) -> list[str]:
    """Returns the artist's colours for "skin", "headContrast" or "clothing"."""
    return list(_definition()["colors"][name]["values"])


def definition_path() -> pathlib.Path:
    """Returns the definition's file. Raises UserError when `dicebear-styles` is not installed."""
    spec = importlib.util.find_spec("dicebear_styles")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package 'dicebear-styles' is missing: pip install dicebear-styles")
    return pathlib.Path(next(iter(spec.submodule_search_locations))) / "open-peeps.json"


def _figure(peep: Peep) -> str:
    chosen = dict(zip(_LAYERS, (peep.head, peep.beard, peep.expression, peep.glasses), strict=True))
    markup = _body() + "".join(_layer(layer, name) for layer, name in chosen.items() if name)
    for slot, colour in (
        ("skin", peep.skin),
        ("headContrast", peep.hair),
        ("clothing", peep.clothing),
        ("ink", _INK),
    ):
        markup = markup.replace(f"{{{slot}}}", colour)
    return markup


@functools.cache
def _definition() -> dict:
    return json.loads(definition_path().read_text(encoding="utf-8"))


@functools.cache
def _body() -> str:
    elements = _definition()["canvas"]["elements"]
    return "".join(_markup(e) for e in elements if e["type"] == "element")


@functools.cache
def _layer(component: str, name: str) -> str:
    """One part in its place on the canvas, with {skin} and the like for colours."""
    canvas = _definition()["canvas"]["elements"]
    place = next(e for e in canvas if e["name"] == component)["attributes"]["transform"]
    if "/" in name:
        eyes, mouth = name.split("/")
        elements = _half(eyes, above=True) + _half(mouth, above=False)
    else:
        elements = _elements(component, name)
    inside = "".join(map(_markup, elements))
    if component == "facialHair":
        inside = inside.replace("{ink}", "{headContrast}")
    return f'<g transform="{place}">{inside}</g>'


def _elements(component: str, name: str) -> list[dict]:
    return _definition()["components"][component]["variants"][name]["elements"]


def _markup(element: dict) -> str:
    attributes = "".join(
        f' {key}="{{{value["name"]}}}"' if isinstance(value, dict) else f' {key}="{value}"'
        for key, value in element.get("attributes", {}).items()
    )
    inside = "".join(map(_markup, element.get("children", [])))
    return f"<{element['name']}{attributes}>{inside}</{element['name']}>"


def _half(expression: str, above: bool) -> list[dict]:
    """The paths of an expression that start above the tip of the nose, or below it."""
    halves = (_half_of(e, above) for e in _elements("expression", expression))
    return [half for half in halves if half]


def _half_of(element: dict, above: bool) -> dict | None:
    """The element with only the subpaths of one half; None if there are none."""
    if "children" in element:
        kept = [half for child in element["children"] if (half := _half_of(child, above))]
        return element | {"children": kept} if kept else None
    path = "".join(
        f"M{x:.2f} {y:.2f}{rest}"
        for x, y, rest in subpaths(element["attributes"]["d"])
        if (y < _NOSE_TIP) == above
    )
    return element | {"attributes": element["attributes"] | {"d": path}} if path else None


def subpaths(path: str) -> list[tuple[float, float, str]]:
    """Returns each subpath of an SVG path as (x, y, the commands after its start at (x, y)).

    Subpaths must be closed, as those of filled shapes are: a relative start is relative to the
    start of the subpath before it.
    """
    segments, x, y = [], 0.0, 0.0
    for command, dx, dy, rest in _SUBPATH.findall(path):
        relative = command == "m"
        x, y = (x + float(dx), y + float(dy)) if relative else (float(dx), float(dy))
        # Further coordinates of an M or m are implicit lines, absolute or relative like it.
        lines = rest.lstrip()[:1] in tuple("-+.0123456789")
        segments.append((x, y, ("l" if relative else "L") * lines + rest))
    return segments
