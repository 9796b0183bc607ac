"""Values to the words and marks that the report's sections share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def finite(value: Any) -> bool:
    """Whether a value read from JSON is a number other than NaN and infinity."""
    return is_number(value) and math.isfinite(value)


def formatted(values: Mapping[str, Any], key: str, form: str) -> str:
    """`form` filled with the value of `key`; "" where there is no finite value."""
    return form.format(values[key]) if finite(values.get(key)) else ""


def missing(text: str) -> str:
    """A paragraph in place of something that the run has not written."""
    return f'<p class="missing">{text}</p>'


def duration(seconds: float) -> str:
    """12.3 s, 4 min 5 s, 6 h 7 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
