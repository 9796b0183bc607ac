"""The allowed values of config keys, declared beside the code that reads them.

`igerg_jax.checks` checks every declaration before anything compiles.
"""

import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from igerg_jax.errors import UserError, check_all

LARGEST = 2**31 - 1  # JAX's integers have 32 bits


class Choice(NamedTuple):
    """A setting that has a few allowed values.

    Attributes:
      setting: its key below a group of the config; dots for groups within that group.
    """

    setting: str
    values: tuple[str, ...]

    def check(self, group: str, settings: Mapping[str, Any]) -> None:
        """Raises UserError unless the value in `settings`, the config's group, is allowed."""
        check_choice(f"{group}.{self.setting}", value_of(settings, self.setting), self.values)


class Range(NamedTuple):
    """The range of a numeric setting; None = no such bound. No range holds NaN or infinity."""

    setting: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def check(self, group: str, settings: Mapping[str, Any]) -> None:
        """Raises UserError unless the value in `settings`, the config's group, is within range.

        The message names the key, the value and the range.
        """
        value = value_of(settings, self.setting)
        if math.isinf(value):
            raise UserError(f"{group}.{self.setting}={value} must be a finite number")
        if not self.allows(value):
            raise UserError(f"{group}.{self.setting}={value} must be {self.describe()}")

    def allows(self, value: float) -> bool:
        """Whether `value` is within the range."""
        return not (
            not math.isfinite(value)
            or (self.at_least is not None and value < self.at_least)
            or (self.above is not None and value <= self.above)
            or (self.at_most is not None and value > self.at_most)
            or (self.below is not None and value >= self.below)
        )

    def describe(self) -> str:
        """The range in words: "at least 0 and below 1"."""
        bounds = (
            f"{name.replace('_', ' ')} {bound}"
            for name, bound in zip(self._fields[1:], self[1:], strict=True)
            if bound is not None
        )
        return " and ".join(bounds) or "a number"


def check_whole_numbers(config: Mapping[str, Any]) -> None:
    """Raises UserError with a line for each whole number in a config that overflows an int32."""
    check_all(*(functools.partial(_check_size, *found) for found in _whole_numbers(config)))


def _check_size(key: str, value: int) -> None:
    if abs(value) > LARGEST:
        raise UserError(f"{key}={value} must be between -{LARGEST} and {LARGEST}")


def _whole_numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """(dotted key, number) of each whole number in nested mappings and lists."""
    if isinstance(value, int):
        yield key, value
    elif hasattr(value, "items"):
        for name, inner in value.items():
            yield from _whole_numbers(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _whole_numbers(inner, key)


def check_constraints(
    group: str, settings: Mapping[str, Any], declared: Iterable[Choice | Range]
) -> None:
    """Raises UserError with a line for each setting whose value is not allowed."""
    check_all(*(functools.partial(setting.check, group, settings) for setting in declared))


def check_choice(key: str, value: str, choices: Collection[str]) -> None:
    """Raises UserError unless `value`, of the config key `key`, is one of `choices`."""
    if value not in choices:
        raise UserError(f"{key} '{value}' is not one of {', '.join(choices)}")


def value_of(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in nested mappings."""
    return functools.reduce(lambda group, part: group[part], key.split("."), settings)
