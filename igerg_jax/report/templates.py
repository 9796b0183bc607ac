"""Renders Jinja2 templates to self-contained pages, and formats their values.

Templates escape their values; no Python module builds markup.
"""

import math
import pathlib
import sys
from typing import Any

import jinja2

from igerg_jax.batch import EMOTIONS
from igerg_jax.report import charts

_FOLDER = pathlib.Path(__file__).parent


def render(template: pathlib.Path, **context: Any) -> str:
    """The page of a template, which may use those of this folder: base.html and macros.html."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"formatted": formatted, "duration": duration, "short": short}
    environment.globals |= {"EMOTIONS": EMOTIONS, "charts": charts, "zip": zip, "hue": hue}
    return environment.get_template(template.name).render(**context)


def hue(number: int) -> int:
    """The hue, in degrees, of the run with a number; neighbours differ by the golden angle."""
    return round(number * 137.508 % 360)


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number, but for whole ones beyond any float; true and
    false are none."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, float)


def finite(value: Any) -> bool:
    """Whether a value read from JSON is a number other than NaN and infinity."""
    return is_number(value) and math.isfinite(value)


def formatted(value: Any, form: str) -> str:
    """`form` filled with a value; "" if it is not a finite number."""
    return form.format(value) if finite(value) else ""


def duration(seconds: Any) -> str:
    """12.3 s, 4 min 5 s, 6 h 7 min; "" if it is not a finite number."""
    if not finite(seconds) or seconds < 60:
        return formatted(seconds, "{:.1f} s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def short(value: float) -> str:
    """A number in at most about five characters: 0.01, 2.5, 300, 20k, 1.5M, 3e-4."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"
