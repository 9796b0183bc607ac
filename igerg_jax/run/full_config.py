"""Checks that a config has all keys that the code reads, and no others."""

import numbers
from collections.abc import Iterator, Mapping
from typing import Any

from igerg_jax.errors import UserError, nearest

FREE = ("data.mixtures",)  # groups whose keys users name


def check(config: Mapping[str, Any], full: Mapping[str, Any], file: str) -> None:
    """Raises UserError, with a line for each key that is unknown, missing or of another type.

    Args:
      full: the config of configs/pretrain.py, which sets every key.
      file: the file of `config`, for the message.
    """
    known = [key for key, _ in _leaves(full)]
    problems = []
    groups = [key.rpartition(".")[0] for key in known if "." in key]
    for key in _unknown(config, full):
        is_group = hasattr(_get(config, key), "items")
        close = ", ".join(nearest(key, sorted(set(groups)) if is_group else known))
        problems.append(f"{file}: unknown config key '{key}'; the nearest are: {close}")
    for key, value in _leaves(full):
        given = _get(config, key)
        if given is None:
            problems.append(
                f"{file}: config key '{key}' is missing; it is {value!r} in configs/pretrain.py"
            )
        elif not _has_type_of(given, value):
            kind = type(value).__name__
            problems.append(f"{file}: {key}={given!r}; it takes {kind} values such as {value!r}")
        elif isinstance(given, str) and "\0" in given:
            problems.append(f"{file}: {key}={given!r} holds a null character, which no name may")
    problems += [f"{file}: {problem}" for problem in _odd_mixtures(_get(config, "data.mixtures"))]
    if problems:
        raise UserError(*problems)


def _odd_mixtures(mixtures: Any) -> Iterator[str]:
    """A message for each entry of data.mixtures that lacks the structure of a mixture."""
    for name, mixture in mixtures.items() if hasattr(mixtures, "items") else ():
        is_one = hasattr(mixture, "items") and set(mixture) == {"objectives", "datasets"}
        if not (
            is_one
            and isinstance(mixture["objectives"], list | tuple)
            and all(isinstance(objective, str) for objective in mixture["objectives"])
            and hasattr(mixture["datasets"], "items")
        ):
            yield (
                f"data.mixtures.{name} is not a mixture, "
                "{'objectives': ('NAME', ...), 'datasets': {'NAME': WEIGHT, ...}}"
            )


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in FREE or not hasattr(value, "items"):
            yield name, value
        else:
            yield from _leaves(value, f"{name}.")


def _unknown(config: Mapping[str, Any], full: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys and groups that are not in `full`."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if key not in full:
            yield name
        elif name not in FREE and hasattr(value, "items") and hasattr(full[key], "items"):
            yield from _unknown(value, full[key], f"{name}.")


def _get(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not hasattr(config, "items") or part not in config:
            return None
        config = config[part]
    return config


def _has_type_of(value: Any, example: Any) -> bool:
    """Whether a value has the type of `example`; an int will do for a float, a list for a tuple."""
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    if isinstance(example, float):
        return isinstance(value, numbers.Real)
    if hasattr(example, "items"):
        return hasattr(value, "items")
    if isinstance(example, list | tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, type(example))
