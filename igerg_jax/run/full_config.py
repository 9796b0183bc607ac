"""Checks that a config has all keys that the code reads, and no others."""

import copy
import functools
import numbers
import sys
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
        if _get(config, key) is None:
            problems.append(
                f"{file}: config key '{key}' is missing; it is {value!r} in configs/pretrain.py"
            )
    problems += [f"{file}: {problem}" for problem in _wrong_values(config, full)]
    if problems:
        raise UserError(*problems)


def completed(
    recorded: Any, full: Mapping[str, Any], file: str, say: bool = True
) -> dict[str, Any]:
    """A config as JSON recorded it, with the keys of this version: those that are missing are as in
    `full`, and unknown ones are left out. With `say`, a line on stderr names both.

    So what another version recorded can be used. Keys that change what a model computes are
    compared with the recorded ones elsewhere (`igerg_jax.run.compatibility`).

    Args:
      file: where it was recorded, for messages.

    Raises:
      UserError: it is no object, or a key has another type.
    """
    if not isinstance(recorded, dict) or not recorded:
        raise UserError(f"the config in '{file}' is not an object with its keys")
    config = copy.deepcopy(recorded)
    unknown = list(_unknown(config, full))
    for key in unknown:
        group, _, name = key.rpartition(".")
        del (_get(config, group) if group else config)[name]
    missing = [key for key, _ in _leaves(full) if _get(config, key) is None]
    problems = [f"the config in '{file}': {problem}" for problem in _wrong_values(config, full)]
    if problems:
        raise UserError(*problems)
    for key in missing:
        _put(config, key, _get(full, key))
    if say and (missing or unknown):
        _say(file, tuple(missing), tuple(unknown))
    return config


@functools.cache  # a command reads its config more than once
def _say(file: str, missing: tuple[str, ...], unknown: tuple[str, ...]) -> None:
    """Prints a line on the keys of a recorded config that differ from this version's."""
    said = f"note: the config in '{file}' is of another version"
    if missing:
        said += f"; what it lacks is as in configs/pretrain.py: {', '.join(missing)}"
    if unknown:
        said += f"; unknown keys are left out: {', '.join(unknown)}"
    print(said, file=sys.stderr)


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        if config.get(group) is None:
            config[group] = {}
        config = config[group]
    config[name] = value.to_dict() if hasattr(value, "to_dict") else value


def _wrong_values(config: Mapping[str, Any], full: Mapping[str, Any]) -> Iterator[str]:
    """A message for each value of a type that its key does not take; keys may be missing."""
    for group in dict.fromkeys(key.rpartition(".")[0] for key, _ in _leaves(full)):
        given = _get(config, group) if group else None
        if given is not None and not hasattr(given, "items"):
            yield f"{group}={given!r} is not a group of keys"
    for key, value in _leaves(full):
        given = _get(config, key)
        if given is None:
            continue
        if not _has_type_of(given, value):
            kind = type(value).__name__
            yield f"{key}={given!r}; it takes {kind} values such as {value!r}"
        elif isinstance(given, str) and "\0" in given:
            yield f"{key}={given!r} holds a null character, which no name may"
    yield from _odd_mixtures(_get(config, "data.mixtures"))


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
