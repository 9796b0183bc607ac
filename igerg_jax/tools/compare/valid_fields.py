"""Validates the fields of a row, whose file may be damaged or another program's."""

import functools
import pathlib
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.report.templates import finite
from igerg_jax.text_labeller import ORDINALS

_LARGEST = 1e30  # sums and squares of such numbers are still finite

Kind = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return finite(value) and abs(value) < _LARGEST


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _or_none(value: Any, kind: Kind) -> bool:
    return value is None or kind(value)


def _list(value: Any, kind: Kind, length: int | None = None) -> bool:
    fits = isinstance(value, list) and length in (None, len(value))
    return fits and all(map(kind, value))


def _object(value: Any, kind: Kind) -> bool:
    return isinstance(value, Mapping) and all(map(kind, value.values()))


def _windows(value: Any) -> bool:
    """Whether this is a split's part of windows.json; each of its parts may be missing."""
    if not isinstance(value, Mapping):
        return False
    response, following = (value.get(part) or {} for part in ("response", "following"))
    counts = functools.partial(_list, kind=_whole)
    emotions = functools.partial(_list, kind=lambda row: _list(row, _whole, NUM_EMOTIONS))
    said = dict.fromkeys(("said", *(f"said_{ordinal}" for ordinal in ORDINALS)), emotions)
    numbers = functools.partial(_list, kind=_number)
    kinds = [
        (response, {"nll": numbers, "tokens": counts, "conversation": counts}),
        (following, {"index": counts, "conversation": counts, **said}),
    ]
    return all(
        isinstance(part, Mapping)
        and all(_or_none(part.get(key), kind) for key, kind in keys.items())
        for part, keys in kinds
    )


def _matrix(value: Any) -> bool:
    return _list(value, lambda row: _list(row, _number, NUM_EMOTIONS), NUM_EMOTIONS)


_TEXTS = "name config preset digest status message commit jax workdir".split()
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(_TEXTS, _text),
    **dict.fromkeys(
        ("wall_seconds", "steps", "examples", "parameters"),
        functools.partial(_or_none, kind=_number),
    ),
    "seed": _whole,
    "overrides": functools.partial(_list, kind=_text),
    "hardware": functools.partial(_object, kind=lambda value: _text(value) or _number(value)),
    "evaluation": functools.partial(_object, kind=lambda of_split: isinstance(of_split, Mapping)),
    "text_labeller": lambda value: isinstance(value, Mapping),  # `report.answers` checks the rest
    "following_matrix": functools.partial(_or_none, kind=_matrix),
    "windows": _windows,
}


def checked(fields: dict[str, Any], source: pathlib.Path) -> dict[str, Any]:
    """Returns the fields of a row. Raises UserError for one of the wrong type or shape."""
    for name, value in fields.items():
        if not _KINDS[name](value):
            raise UserError(f"'{source}' is damaged: its {name} is {reprlib.repr(value)}")
    return fields
