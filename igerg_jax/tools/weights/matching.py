"""Accounts for every tensor of a source and every parameter of ours, before any is read."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from igerg_jax.errors import UserError
from igerg_jax.tools.weights import adapting
from igerg_jax.tools.weights.sources import Source
from igerg_jax.tools.weights.table import Table
from igerg_jax.tools.weights.transforms import TRANSFORMS

Shapes = Mapping[str, tuple[int, ...]]


class Piece(NamedTuple):
    """One parameter of ours: of which tensors (one a layer, or one), and how."""

    ours: str
    theirs: tuple[str, ...]
    how: str
    layered: bool
    adapted: adapting.Adaptation | None  # what makes its shape ours after the transform


class Plan(NamedTuple):
    """What is taken from one source, and what is left out."""

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
        what = f"there with and without the prefix {' or '.join(table.prefixes)}"
        raise UserError(f"'{source.path}' ({table.name}) has tensors twice, {what}: {twice[0]} …")
    names, left = _aside(table, source, names)
    pieces, problems = [], _Problems()
    used = set(left)
    for theirs, ours, how in table.rows:
        if ours not in wanted:
            continue  # a tensor for it has no place: it is listed below
        shape, layered = wanted[ours], "*" in theirs
        keys = [theirs.replace("*", str(i)) for i in range(shape[0])] if layered else [theirs]
        present = [key for key in keys if key in names]
        used |= set(present)
        if len(present) < len(keys):
            problems.missing.append(f"{ours} (from {theirs})")
            continue
        adapted = None
        for key in keys:
            target = shape[1:] if layered else shape
            reached = _shape(how, source.shapes[names[key]], target)
            if reached != target and not layered:
                adapted = adapting.find(ours, reached, target)
            if reached != target and (
                adapted is None or (adapted.on_request and not resize_vocabulary)
            ):
                what = f"{ours} (there {reached or source.shapes[names[key]]}, here {target})"
                problems.other.append(what)
        pieces.append(Piece(ours, tuple(names[k] for k in keys), how, layered, adapted))
    problems.unknown = [key for key in names if key not in used]
    problems.refuse(table, source)
    derived = {name: why for name, why in table.derived.items() if name in wanted}
    return Plan(tuple(pieces), left, derived, matching(table.new, wanted))


def matching(patterns: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """{name: why} of the names that match one of {pattern: why}."""
    reasons = {}
    for name in names:
        for pattern, why in patterns.items():
            if fnmatch.fnmatchcase(name, pattern):
                reasons[name] = why
                break
    return reasons


def without_prefixes(source: Source, table: Table) -> dict[str, str]:
    """{name as the table has it: name in the file}."""

    def short(name: str) -> str:
        for prefix in table.prefixes:
            name = name.removeprefix(prefix)
        return name

    return {short(name): name for name in source.shapes}


def _aside(table: Table, source: Source, names: dict[str, str]) -> tuple[dict, dict]:
    """(names with the tied one under its first name, {what is left out: why})."""
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


class _Problems:
    def __init__(self):
        self.missing: list[str] = []
        self.other: list[str] = []
        self.unknown: list[str] = []

    def refuse(self, table: Table, source: Source) -> None:
        lists = (
            ("parameters without a tensor", self.missing),
            ("of another shape", self.other),
            ("tensors without a place in our model", self.unknown),
        )
        parts = [f"{what}: {', '.join(names)}" for what, names in lists if names]
        if any(name.startswith("token_embedding ") for name in self.other):
            parts.append(
                "the vocabulary is that of the tokenizer: set config.data.tokenizer.vocab_size to "
                "the weights', or --resize_vocabulary to cut or lengthen their table"
            )
        if parts:
            raise UserError(f"'{source.path}' ({table.name}) does not fit. {'; '.join(parts)}")


def _shape(how: str, shape: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of a tensor of `shape` after the transform; None where that does not apply."""
    nothing = np.broadcast_to(np.float32(0), shape)  # takes no memory
    try:
        return TRANSFORMS[how].ours(nothing, target).shape
    except (ValueError, IndexError):
        return None
