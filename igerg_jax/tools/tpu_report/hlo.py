"""What a compiled program does, read from its HLO text: FLOPs and bytes.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs, and a model with
scanned layers is mostly loops. Here every instruction is counted as often as it runs: the trip
count of a loop is read from its condition. For a program without loops the totals agree with XLA's
(tests/tools/test_compile_report.py).

FLOPs are those of matrix products and convolutions alone. Bytes are what an instruction reads
and writes, as XLA counts them: a fusion is one instruction; of an operand that is only sliced,
the slices; of a result that is updated in place, the update.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re

import numpy as np

from igerg_jax.tools.tpu_report.hlo_text import (
    NOTHING,
    Bytes,
    Instruction,
    computations,
    total_size,
)

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_ELEMENT = "get-tuple-element"
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
# They name values and move nothing.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "while", "conditional", "call", "domain"),
    *("add-dependency", "async-start", "async-update"),  # what an async-start calls is counted
}


@dataclasses.dataclass(frozen=True)
class Op:
    """What one instruction of the program costs a device, each time that it runs."""

    name: str
    count: float
    flops: int
    bytes: int  # read and written, in any memory: XLA's "bytes accessed"
    hbm_bytes: int  # of those, in HBM
    cycles: int  # XLA's estimate; 0 where it makes none
    op_name: str


class Program:
    """A compiled module's text, parsed.

    Attributes:
      computations: {name: {instruction's name: Instruction}}.
      counts: {computation's name: times it runs in a step}; those inside fusions are not in it.
    """

    def __init__(self, text: str):
        self.computations, entry = computations(text)
        for inside in self.computations.values():
            inside |= {i.name: self._as_slice(i) for i in inside.values()}
        self.counts: dict[str, float] = collections.defaultdict(float)
        self._walk(entry, 1.0)

    def _as_slice(self, instruction: Instruction) -> Instruction:
        """An asynchronous slice, as jaxlib writes it; in the compiler's own text it is a call of a
        computation that is the slice."""
        if instruction.opcode == "async-start":
            called = self.computations[instruction.attribute(r"calls=%([\w.-]+)")].values()
            if any(one.is_root and one.opcode == "slice" for one in called):
                return dataclasses.replace(instruction, opcode="slice-start")
        return instruction

    def ops(self) -> list[Op]:
        """Every instruction that costs something."""
        ops = []
        for name, count in self.counts.items():
            for instruction in self.computations[name].values():
                if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
                    continue
                flops, size = self._flops(instruction), self._bytes(name, instruction)
                cycles = instruction.attribute(r'"estimated_cycles":"(\d+)"')
                ops.append(
                    Op(instruction.name, count, flops, *size, int(cycles or 0), instruction.op_name)
                )
        return ops

    def _walk(self, name: str, count: float) -> None:
        self.counts[name] += count
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                body = instruction.attribute(r"body=%([\w.-]+)")
                condition = instruction.attribute(r"condition=%([\w.-]+)")
                self._walk(body, count * self._trips(condition) / self._stride(condition, body))
            elif instruction.opcode in ("call", "async-start"):
                called = instruction.attribute(r"(?:to_apply|calls)=%([\w.-]+)")
                self._walk(called, count)
            elif instruction.opcode == "conditional":
                # The text does not say which branch is most expensive; count the first.
                called = re.findall(
                    r"(?:true_computation=|branch_computations=\{)%([\w.-]+)",
                    instruction.attributes,
                )
                self._walk(called[0], count)

    def _trips(self, condition: str) -> int:
        """A loop's trip count: the constant that its condition compares the counter with."""
        constants = [
            int(i.arguments)
            for name in (condition, *self._called(condition))
            for i in self.computations[name].values()
            if i.opcode == "constant" and re.fullmatch(r"-?\d+", i.arguments)
        ]
        return max(constants, default=1)

    def _stride(self, condition: str, body: str) -> int:
        """What an iteration adds to the counter: 2 where the compiler has unrolled a body once, as
        for products that start while their operand is still arriving (collective-permutes)."""
        counters = [i for i in self.computations[condition].values() if i.opcode == _ELEMENT]
        if len(counters) != 1:
            return 1
        inside = self.computations[body]
        root = next(i for i in inside.values() if i.is_root)
        step = inside[root.operands[int(counters[0].attribute(r"index=(\d+)"))]]
        added = [inside[name].arguments for name in step.operands if name in inside]
        constants = [int(text) for text in added if re.fullmatch(r"\d+", text)]
        return constants[0] if step.opcode == "add" and constants else 1

    def _called(self, name: str) -> list[str]:
        calls = (i.attribute(r"calls=%([\w.-]+)") for i in self.computations[name].values())
        return [called for called in calls if called]

    def _flops(self, instruction: Instruction) -> int:
        called = instruction.attribute(r"calls=%([\w.-]+)")
        if instruction.opcode == "fusion":
            return self._flops_inside(called)
        if instruction.opcode == "custom-call":  # a kernel's own estimate
            return int(instruction.attribute(r'"flops":"(\d+)"') or 0)
        return (
            0
            if instruction.opcode not in ("dot", "convolution")
            else self._product(instruction, self.computations_of(instruction))
        )

    def computations_of(self, instruction: Instruction) -> dict[str, Instruction]:
        """The computation that contains an instruction."""
        return self._home[instruction.name]

    @functools.cached_property
    def _home(self) -> dict[str, dict[str, Instruction]]:
        return {name: inside for inside in self.computations.values() for name in inside}

    @functools.cache  # noqa: B019 a program lives as long as its report
    def _flops_inside(self, computation: str) -> int:
        inside, total = self.computations[computation], 0
        for instruction in inside.values():
            if instruction.opcode in ("dot", "convolution"):
                total += self._product(instruction, inside)
            elif instruction.opcode == "fusion":
                total += self._flops_inside(instruction.attribute(r"calls=%([\w.-]+)"))
        return total

    @staticmethod
    def _product(instruction: Instruction, inside: dict[str, Instruction]) -> int:
        left, right = (inside[name].arrays[0].shape for name in instruction.operands[:2])
        out = math.prod(instruction.arrays[0].shape)
        if instruction.opcode == "dot":
            axes = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
            return 2 * out * math.prod(left[int(axis)] for axis in axes.split(",") if axis)
        return _convolution(instruction, left, right)

    def _bytes(self, computation: str, instruction: Instruction) -> Bytes:
        inside, opcode = self.computations[computation], instruction.opcode
        if opcode == "fusion":
            return self._fusion_bytes(instruction)
        if opcode == "broadcast" or (opcode == "custom-call" and _is_free(instruction)):
            return total_size(instruction.arrays) if opcode == "broadcast" else NOTHING
        sizes = [total_size(inside[name].arrays) for name in instruction.operands]
        if opcode == "dynamic-update-slice":
            return sizes[1] + sizes[1]
        if opcode == "copy-start":  # its type is (result, operand, context)
            # XLA counts a copy where it starts and where it is done.
            both = instruction.arrays[0].size + sizes[0]
            return Bytes(2 * both.total, both.hbm)
        if opcode == "slice-start":  # ((operand), result, context)
            moved = instruction.arrays[1].size
            both = moved + _at(moved, inside[instruction.operands[0]])
            return Bytes(2 * both.total, both.hbm)
        estimate = instruction.attribute(r'"bytes_accessed":"(\d+)"')
        if opcode == "custom-call" and estimate:  # a kernel knows best
            return Bytes(int(estimate), int(estimate))
        if opcode.endswith("-start"):
            return total_size(instruction.arrays)
        result = total_size(instruction.arrays)
        if opcode in ("dynamic-slice", "slice", "gather"):
            return result + _at(result, inside[instruction.operands[0]])
        return result + sum(sizes, NOTHING)

    def _fusion_bytes(self, instruction: Instruction) -> Bytes:
        called = instruction.attribute(r"calls=%([\w.-]+)")
        inside = self.computations[called]
        carried = self._carried(called)
        numbers = [
            number
            for number in range(len(instruction.operands))
            if self._parameters(called)[number].name not in carried
        ]
        read = sum((self._read_bytes(called, number) for number in numbers), NOTHING)
        root = next(inner for inner in inside.values() if inner.is_root)
        results = [inside[n] for n in root.operands] if root.opcode == "tuple" else [root]
        written = (r for r in results if r.name not in carried)
        return read + sum((_written_bytes(result, inside) for result in written), NOTHING)

    @functools.cache  # noqa: B019
    def _carried(self, computation: str) -> set[str]:
        """What a fusion only passes on, in place, for a collective that overlaps with it."""
        if not computation.startswith("async_collective_fusion"):
            return set()
        inside = self.computations[computation].values()
        collectives = {i.name for i in inside if i.opcode.removesuffix("-start") in COLLECTIVES}
        users = self._users(computation)
        return collectives | {
            i.name
            for i in inside
            if i.opcode == "parameter"
            and all(u.opcode == "tuple" or u.name in collectives for u in users[i.name])
        }

    def _read_bytes(self, computation: str, number: int) -> Bytes:
        """What a fusion's computation reads of its operand `number`."""
        parameter = self._parameters(computation)[number]
        read, shared = NOTHING, False
        for user in self._users(computation)[parameter.name]:
            if user.opcode in ("dynamic-slice", "slice", "gather"):
                read += _at(user.arrays[0].size, parameter)
            elif user.opcode == "fusion":
                called = user.attribute(r"calls=%([\w.-]+)")
                places = [i for i, name in enumerate(user.operands) if name == parameter.name]
                read += sum((self._read_bytes(called, place) for place in places), NOTHING)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
                continue  # updated in place
            elif not shared:  # the others read it together
                shared, read = True, read + total_size(parameter.arrays)
        return read

    @functools.cache  # noqa: B019
    def _parameters(self, computation: str) -> dict[int, Instruction]:
        inside = self.computations[computation].values()
        return {int(i.arguments): i for i in inside if i.opcode == "parameter"}

    @functools.cache  # noqa: B019
    def _users(self, computation: str) -> dict[str, list[Instruction]]:
        users: dict[str, list[Instruction]] = collections.defaultdict(list)
        for instruction in self.computations[computation].values():
            for operand in instruction.operands:
                users[operand].append(instruction)
        return users


def _written_bytes(result: Instruction, called: dict[str, Instruction]) -> Bytes:
    while result.opcode == "bitcast":
        result = called[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        return _at(total_size(called[result.operands[1]].arrays), result)
    return total_size(result.arrays)


def _at(size: Bytes, place: Instruction) -> Bytes:
    """As many bytes, in the memory that holds `place`."""
    return Bytes(size.total, 0 if place.arrays[0].space else size.total)


def _is_free(instruction: Instruction) -> bool:
    return any(name in instruction.attributes for name in _FREE_CALLS)


def _convolution(instruction: Instruction, left, right) -> int:
    """2 x multiplications; positions that padding or dilation leave empty are not counted.

    XLA writes batched products as convolutions in which most positions are empty.
    """
    lhs, rhs, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes).groups()
    window = instruction.attribute(r"window=\{([^}]*)\}") or ""
    settings = dict(part.split("=") for part in window.split())
    result = instruction.arrays[0].shape
    flops = 2 * result[out.index("b")] * result[out.index("f")] * right[rhs.index("i")]
    for number, axis in enumerate(sorted(d for d in out if d.isdigit())):

        def setting(key: str, default: int, number: int = number) -> int:
            return int(settings[key].split("x")[number]) if key in settings else default

        low = int(settings["pad"].split("x")[number].split("_")[0]) if "pad" in settings else 0
        base = setting("lhs_dilate", 1)
        at = (
            np.arange(result[out.index(axis)])[:, None] * setting("stride", 1)
            - low
            + np.arange(right[rhs.index(axis)])[None] * setting("rhs_dilate", 1)
        )
        size = (left[lhs.index(axis)] - 1) * base + 1
        flops *= int(((at >= 0) & (at < size) & (at % base == 0)).sum())
    groups = instruction.attribute(r"\bbatch_group_count=(\d+)")
    return flops // int(groups or 1)
