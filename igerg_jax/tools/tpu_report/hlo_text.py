"""Parses the text of an HLO module: computations, instructions, and their result arrays."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

_BITS = {
    **dict(pred=8, s4=4, u4=4, s8=8, u8=8, s16=16, u16=16, s32=32, u32=32, s64=64, u64=64),
    **dict(f16=16, bf16=16, f32=32, f64=64, c64=64, c128=128, token=0, opaque=0),
    **dict(f8e4m3fn=8, f8e5m2=8, f8e4m3b11fnuz=8),
}
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.-]+)")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9-]*)\(")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array's type: bits per element, dimensions, and XLA's memory space (0 = HBM)."""

    bits: int
    shape: tuple[int, ...]
    padded: tuple[int, ...]  # the shape with tile padding, outermost dimension first
    space: int

    @property
    def size(self) -> Bytes:
        """In memory, including padding to full tiles."""
        total = self.bits * math.prod(self.padded) // 8
        return Bytes(total, 0 if self.space else total)


class Bytes(NamedTuple):
    """Bytes in any memory, and those in HBM (TPU programs keep much in on-chip memory)."""

    total: int
    hbm: int

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.total + other.total, self.hbm + other.hbm)

    __radd__ = __add__


NOTHING = Bytes(0, 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    arrays: tuple[Array, ...]  # of the result; several for a tuple
    opcode: str
    operands: tuple[str, ...]
    attributes: str  # the rest of the line
    arguments: str  # the operands as written: a constant's value, a parameter's number
    is_root: bool

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in the attributes."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else None

    @property
    def op_name(self) -> str:
        """The place in the Python program that it comes from."""
        return self.attribute(r'op_name="([^"]*)"') or ""

    @property
    def called(self) -> str | None:
        """The computation that a fusion or an async-start calls."""
        return self.attribute(r"calls=%([\w.-]+)")

    @property
    def offloaded(self) -> str | None:
        """The computation that a custom-call has a SparseCore run: for TPU7x, the collectives."""
        if self.opcode != "custom-call":
            return None
        return self.attribute(r"called_computations=\{%([\w.-]+)\}")


def total_size(arrays: Iterable[Array]) -> Bytes:
    """The bytes of several arrays together."""
    return sum((array.size for array in arrays), NOTHING)


Computation = dict[str, Instruction]  # by name


def root(computation: Computation) -> Instruction:
    """The instruction whose value a computation returns."""
    return next(i for i in computation.values() if i.is_root)


def computations(text: str) -> tuple[dict[str, Computation], str]:
    """(computations by name, the name of the one that runs first).

    Raises:
      ValueError: `text` is not that of a module.
    """
    parsed: dict[str, Computation] = {}
    entry, current = None, {}
    for line in text.split("\n"):
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = _NAME.search(line)[1]
            current = parsed.setdefault(name, {})
            entry = name if line.startswith("ENTRY") else entry
        elif line.startswith("  ") and " = " in line:
            instruction = parse(line)
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("no ENTRY computation: this is not the text of an HLO module")
    return parsed, entry


def parse(line: str) -> Instruction:
    """Parses one line of a computation."""
    left, _, right = line.strip().partition(" = ")
    is_root = left.startswith("ROOT ")
    name = left.removeprefix("ROOT ").removeprefix("%")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    opcode = _OPCODE.match(right, end)
    start = opcode.end() - 1
    stop = _closing(right, start)
    arguments, attributes = right[start + 1 : stop], right[stop + 1 :]
    arrays = tuple(_array(*parts) for parts in _ARRAY.findall(right[:end]))
    operands = tuple(_NAME.findall(arguments))
    return Instruction(name, arrays, opcode[1], operands, attributes, arguments, is_root)


def _array(dtype: str, dims: str, layout: str) -> Array:
    shape = tuple(int(d.removeprefix("<=")) for d in dims.split(",") if d)
    space = re.search(r"S\((\d+)\)", layout)
    return Array(_BITS[dtype], shape, _padded(shape, layout), int(space[1]) if space else 0)


def _padded(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    order = re.match(r"\{([\d,]*)", layout)
    physical = [shape[axis] for axis in reversed(ints(order[1]))] if order else list(shape)
    tile = re.search(r"T\(([\d,]+)\)", layout)
    sizes = ints(tile[1]) if tile else []
    if len(sizes) > len(physical):
        physical = [1] * (len(sizes) - len(physical)) + physical
    for back, size in enumerate(reversed(sizes), 1):
        physical[-back] = -(-physical[-back] // size) * size
    return tuple(physical)


def _closing(text: str, start: int) -> int:
    """The position where the parenthesis that opens at `start` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced parentheses: {text[:200]}")


def ints(text: str) -> list[int]:
    """Comma-separated integers."""
    return [int(number) for number in text.split(",") if number]
