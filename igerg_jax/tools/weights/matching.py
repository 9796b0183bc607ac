"""Accounts for every tensor of a source and every parameter of ours, before any is read."""

import fnmatch
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from igerg_jax.errors import UserError
from igerg_jax.tools.weights.sources import Source
from igerg_jax.tools.weights.table import TRANSFORMS, Shape, Table

Shapes = Mapping[str, Shape]


class Adaptation(NamedTuple):
    """How the number of rows of a [rows, width] array is changed."""

    apply: Callable[[np.ndarray, Shape], np.ndarray]
    description: str  # for the output of the import


class Piece(NamedTuple):
    """How one parameter of ours is made of one tensor, or of one per layer."""

    ours: str
    theirs: tuple[str, ...]
    how: str  # a key of TRANSFORMS
    layered: bool
    adapted: Adaptation | None  # applied after the transform, if shapes still differ


class Plan(NamedTuple):
    """What becomes of a source's tensors and of our parameters."""

    pieces: tuple[Piece, ...]
    left: dict[str, str]  # their name -> why
    derived: dict[str, str]  # our name -> why
    new: dict[str, str]  # our name -> why


def plan(table: Table, source: Source, wanted: Shapes, resize_vocabulary: bool) -> Plan:
    """How `source` fills the parameters `wanted` (name -> shape, of the full model).

    Raises:
      UserError: one message that lists every tensor without a place, every parameter without a
        tensor, and every shape that differs.
    """
    names = without_prefixes(source, table)
    twice = sorted(source.shapes.keys() - set(names.values()))
    if twice:
        what = f"with and without the prefix {' or '.join(table.prefixes)}"
        raise UserError(
            f"'{source.path}' ({table.name}) has some tensors twice, {what}: {twice[0]} …"
        )
    names, left = _set_aside(table, source, names)
    pieces, missing, other, used = [], [], [], set(left)
    for theirs, ours, how in table.rows:
        if ours not in wanted:
            continue  # if there is a tensor for it, `_refuse` lists it
        shape, layered = wanted[ours], "*" in theirs
        keys = [theirs.replace("*", str(i)) for i in range(shape[0])] if layered else [theirs]
        present = [key for key in keys if key in names]
        used |= set(present)
        if len(present) < len(keys):
            missing.append(f"{ours} (from {theirs})")
            continue
        adapted = None
        for key in keys:
            stored, target = source.shapes[names[key]], shape[1:] if layered else shape
            reached = _transformed_shape(how, stored, target)
            if reached == target:
                continue
            if not layered and (ours != "token_embedding" or resize_vocabulary):
                adapted = adaptation(ours, reached, target)
            if adapted is None:
                other.append(f"{ours} (there {reached or stored}, here {target})")
        pieces.append(Piece(ours, tuple(names[k] for k in keys), how, layered, adapted))
    _refuse(table, source, missing, other, [key for key in names if key not in used])
    derived = {name: why for name, why in table.derived.items() if name in wanted}
    return Plan(tuple(pieces), left, derived, matching(table.new, wanted))


def matching(patterns: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """{name: why} of the names that match one of {pattern: why}."""
    reasons = {}
    for name in names:
        for pattern, why in patterns.items():
            if fnmatch.fnmatchcase(name, pattern):
                reasons.setdefault(name, why)
    return reasons


def without_prefixes(source: Source, table: Table) -> dict[str, str]:
    """{name as the table has it: name in the file}."""
    return {functools.reduce(str.removeprefix, table.prefixes, n): n for n in source.shapes}


def _set_aside(table: Table, source: Source, names: dict[str, str]) -> tuple[dict, dict]:
    """(names, with a tied tensor under its main name; {name that is left out: why}).

    Raises UserError for copies that differ and for tensors that should be zero.
    """
    names, left = dict(names), {}
    for main, copies in table.copies.items():
        present = [copy for copy in copies if copy in names]
        if main not in names and present:
            names[main] = names.pop(present.pop(0))
        for copy in present:
            if not np.array_equal(source.read(names[copy]), source.read(names[main])):
                raise UserError(
                    f"'{source.path}': {copy} differs from {main}; in our model they are one"
                )
            left[copy] = f"the same as {main}"
    for name, why in table.zeros.items():
        if name in names:
            if np.any(source.read(names[name])):
                raise UserError(f"'{source.path}': {name} is not zero, and {why}")
            left[name] = f"zero; {why}"
    return names, left | matching(table.left, [name for name in names if name not in left])


def _refuse(table: Table, source: Source, missing: list, other: list, unknown: list) -> None:
    lists = {
        "parameters without a tensor": missing,
        "of another shape": other,
        "tensors without a place in our model": unknown,
    }
    parts = [f"{what}: {', '.join(names)}" for what, names in lists.items() if names]
    if any(name.startswith("token_embedding ") for name in other):
        parts.append(
            "the vocabulary is that of the tokenizer: set config.data.tokenizer.vocab_size to "
            "the weights', or --resize_vocabulary to cut or lengthen their table"
        )
    if parts:
        raise UserError(f"'{source.path}' ({table.name}) does not fit. {'; '.join(parts)}")


def _transformed_shape(how: str, shape: Shape, target: Shape) -> Shape | None:
    """The shape of a tensor of `shape` after the transform `how`; None if it is not applicable."""
    nothing = np.broadcast_to(np.float32(0), shape)  # takes no memory
    try:
        return TRANSFORMS[how].ours(nothing, target).shape
    except (ValueError, IndexError):
        return None


def adaptation(ours: str, source: Shape | None, target: Shape) -> Adaptation | None:
    """How an array of shape `source` is adapted to our `target` shape; None if it cannot be."""
    if source is None or len(source) != 2 or len(target) != 2 or source[1] != target[1]:
        return None
    old, new = source[0], target[0]
    match ours:
        case "encoder_position_embedding" | "decoder_position_embedding":
            if new < old:
                return Adaptation(_first_rows, f"the first {new} of {old} positions")
            return Adaptation(_interpolated, f"{old} positions interpolated to {new}")
        case "token_embedding":
            if new < old:
                return Adaptation(_first_rows, f"the first {new} of {old} tokens")
            description = f"{new - old} tokens added to {old}, around their mean"
            return Adaptation(_lengthened, description)
        case "vision_tower/pool/queries" if old == 1:
            return Adaptation(_around, f"{new} queries from its one, plus noise of 0.02")
        case "vision_tower/vit/position_embedding":
            return _regridded(old, new)
    return None


def _first_rows(x: np.ndarray, shape: Shape) -> np.ndarray:
    return x[: shape[0]]


def _interpolated(x: np.ndarray, shape: Shape) -> np.ndarray:
    """Linear interpolation, end to end."""
    at = np.linspace(0, len(x) - 1, shape[0])
    below = np.minimum(at.astype(int), len(x) - 2)
    part = (at - below)[:, None].astype(x.dtype)
    return x[below] * (1 - part) + x[below + 1] * part


def _lengthened(x: np.ndarray, shape: Shape) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.02, (shape[0] - len(x), shape[1]))
    return np.concatenate([x, (x.mean(axis=0) + noise).astype(x.dtype)])


def _around(x: np.ndarray, shape: Shape) -> np.ndarray:
    return (x + np.random.default_rng(0).normal(0, 0.02, shape)).astype(x.dtype)


def _regridded(old: int, new: int) -> Adaptation | None:
    """For square grids of patches, after the class token's position if both have one."""
    for extra in (0, 1):
        sides = [math.isqrt(rows - extra) for rows in (old, new)]
        if [side**2 + extra for side in sides] == [old, new]:
            description = "a grid of {0}x{0} patches interpolated to {1}x{1}".format(*sides)
            return Adaptation(functools.partial(_resized, extra, *sides), description)
    return None


def _resized(extra: int, old: int, new: int, x: np.ndarray, shape: Shape) -> np.ndarray:
    grid = x[extra:].reshape(old, old, -1)
    grid = jax.image.resize(grid, (new, new, shape[1]), "bilinear")
    return np.concatenate([x[:extra], np.asarray(grid).reshape(-1, shape[1])])
