"""FLOPs and bytes of a compiled program, read from its HLO text.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs, and a model with
scanned layers is mostly loops. Here every instruction counts as often as it runs: a loop's trip
count is read from its condition. For a program without loops the totals agree with XLA's
(tests/tools/test_compile_report.py).

FLOPs are only those of matrix products and convolutions. Bytes are those that an instruction reads
and writes, as XLA counts them: a fusion is one instruction; an operand that is only sliced counts
as the slices, a result that is updated in place as the update.
"""

import collections
import dataclasses
import functools
import math
import re

import numpy as np

from igerg_jax.tools.tpu_report.hlo_text import (
    NOTHING,
    Bytes,
    Computation,
    Instruction,
    computations,
    ints,
    root,
    total_size,
)

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_SLICES = ("dynamic-slice", "slice", "gather")
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
_ONTO_ITSELF = "output_to_operand_aliasing={{}: (0, {})}"  # a result in its operand's place
# Instructions that name values and move nothing.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "while", "conditional", "call", "domain"),
    # The computation that an async-start calls is counted.
    *("add-dependency", "async-start", "async-update"),
}


@dataclasses.dataclass(frozen=True)
class Op:
    """The cost of one instruction of the program on a device, each time that it runs."""

    name: str
    count: float
    flops: int
    bytes: int  # read and written, in any memory: XLA's "bytes accessed"
    hbm_bytes: int  # of those, in HBM
    cycles: int  # XLA's estimate; 0 = it has none
    op_name: str

    @property
    def is_prefetch(self) -> bool:
        """Whether it copies, beside others, what they read later or what they have made."""
        return self.name.startswith(("copy-start", "slice-start"))


class Program:
    """A compiled module's text, parsed.

    Attributes:
      computations: by name.
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
        called = instruction.opcode == "async-start" and self.computations[instruction.called]
        if called and root(called).opcode == "slice":
            return dataclasses.replace(instruction, opcode="slice-start")
        return instruction

    def ops(self) -> list[Op]:
        """Every instruction that costs something."""
        ops = []
        for name, count in self.counts.items():
            inside = self.computations[name]
            for i in inside.values():
                if i.opcode in _FREE or i.opcode.endswith("-done") or i.offloaded:
                    continue
                flops, (total, hbm) = self._flops(i, inside), self._bytes(i, inside)
                cycles = int(i.attribute(r'"estimated_cycles":"(\d+)"') or 0)
                ops.append(Op(i.name, count, flops, total, hbm, cycles, i.op_name))
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
            elif instruction.offloaded:
                self._walk(instruction.offloaded, count)
            elif instruction.opcode == "conditional":
                # The text does not say which branch is most expensive; count the first.
                first = r"(?:true_computation=|branch_computations=\{)%([\w.-]+)"
                self._walk(instruction.attribute(first), count)

    def _trips(self, condition: str) -> int:
        """A loop's trip count: the constant that its condition compares the counter with."""
        called = [i.called for i in self.computations[condition].values() if i.called]
        constants = [
            int(i.arguments)
            for name in (condition, *called)
            for i in self.computations[name].values()
            if i.opcode == "constant" and re.fullmatch(r"-?\d+", i.arguments)
        ]
        return max(constants, default=1)

    def _stride(self, condition: str, body: str) -> int:
        """The increment of the counter: 2 if the compiler has unrolled the body once, as it does
        for products that start while their operand is still arriving (collective-permutes)."""
        inside, tests = self.computations[body], self.computations[condition].values()
        counters = [i for i in tests if i.opcode == "get-tuple-element"]
        if len(counters) != 1:
            return 1
        step = inside[root(inside).operands[int(counters[0].attribute(r"index=(\d+)"))]]
        added = [inside[name].arguments for name in step.operands if name in inside]
        constants = [int(text) for text in added if re.fullmatch(r"\d+", text)]
        return constants[0] if step.opcode == "add" and constants else 1

    def _flops(self, instruction: Instruction, inside: Computation) -> int:
        if instruction.opcode in ("dot", "convolution"):
            return _product(instruction, inside)
        if instruction.opcode == "fusion":
            return self._flops_inside(instruction.called)
        if instruction.opcode == "custom-call":  # a kernel's own estimate
            return int(instruction.attribute(r'"flops":"(\d+)"') or 0)
        return 0

    @functools.cache  # noqa: B019 a program lives as long as its report
    def _flops_inside(self, computation: str) -> int:
        inside = self.computations[computation]
        return sum(self._flops(instruction, inside) for instruction in inside.values())

    def _bytes(self, instruction: Instruction, inside: Computation) -> Bytes:
        opcode, result = instruction.opcode, total_size(instruction.arrays)
        if opcode == "fusion":
            return self._fusion_bytes(instruction)
        if opcode == "custom-call":
            if any(name in instruction.attributes for name in _FREE_CALLS):
                return NOTHING
            if estimate := instruction.attribute(r'"bytes_accessed":"(\d+)"'):
                return Bytes(int(estimate), int(estimate))  # a kernel's own estimate
        operands = [inside[name] for name in instruction.operands]
        sizes = [total_size(operand.arrays) for operand in operands]
        if opcode == "broadcast":
            return result
        if opcode == "dynamic-update-slice":
            return sizes[1] + sizes[1]
        if opcode in ("copy-start", "slice-start"):  # XLA counts them where they start and are done
            if opcode == "copy-start":  # its type is (result, operand, context)
                both = instruction.arrays[0].size + sizes[0]
            else:  # ((operand), result, context)
                moved = instruction.arrays[1].size
                both = moved + _at(moved, operands[0])
            return Bytes(2 * both.total, both.hbm)
        if opcode.endswith("-start"):
            return result
        if opcode in _SLICES:
            return result + _at(result, operands[0])
        return result + sum(sizes, NOTHING)

    def _fusion_bytes(self, instruction: Instruction) -> Bytes:
        called = instruction.called
        inside, carried = self.computations[called], self._carried(called)
        result, parameters = root(inside), self._parameters(called).items()
        results = [inside[n] for n in result.operands] if result.opcode == "tuple" else [result]
        moved = [self._read_bytes(called, n) for n, i in parameters if i.name not in carried]
        moved += [_written_bytes(one, inside) for one in results if one.name not in carried]
        return sum(moved, NOTHING)

    @functools.cache  # noqa: B019
    def _carried(self, computation: str) -> set[str]:
        """Names of what a fusion only passes on, in place, to a collective that overlaps it."""
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
        """The bytes that a fusion's computation reads of its operand `number`."""
        parameter = self._parameters(computation)[number]
        read, shared = NOTHING, False
        for name, user in self._readers(computation, parameter.name):
            if user.opcode in _SLICES and user.operands[0] == name:  # else it is an index
                read += _at(user.arrays[0].size, parameter)
            elif user.opcode == "fusion":
                places = [i for i, operand in enumerate(user.operands) if operand == name]
                read += sum((self._read_bytes(user.called, place) for place in places), NOTHING)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue  # updated in place
            elif not shared:  # the others read it together
                shared, read = True, read + total_size(parameter.arrays)
        return read

    def _readers(self, computation: str, name: str) -> list[tuple[str, Instruction]]:
        """Users of a value inside a fusion, each with the name by which it knows it: for TPU7x, the
        compiler writes another tiling of an array as a copy onto itself, in a fusion."""
        readers = []
        for user in self._users(computation)[name]:
            if user.opcode == "fusion" and _ONTO_ITSELF in user.attributes:
                readers += self._readers(computation, user.name)
            else:
                readers.append((name, user))
        return readers

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


def _written_bytes(result: Instruction, inside: Computation) -> Bytes:
    while result.opcode == "bitcast":
        result = inside[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        return _at(total_size(inside[result.operands[1]].arrays), result)
    return total_size(result.arrays)


def _at(size: Bytes, place: Instruction) -> Bytes:
    """`size`, with the HBM part of the memory that holds `place`."""
    return Bytes(size.total, 0 if place.arrays[0].space else size.total)


def _product(instruction: Instruction, inside: Computation) -> int:
    left, right = (inside[name].arrays[0].shape for name in instruction.operands[:2])
    if instruction.opcode == "convolution":
        return _convolution(instruction, left, right)
    axes = ints(instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}"))
    out = math.prod(instruction.arrays[0].shape)
    return 2 * out * math.prod(left[axis] for axis in axes)


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
        stride, base, dilation = (
            int(settings[key].split("x")[number]) if key in settings else 1
            for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(settings["pad"].split("x")[number].split("_")[0]) if "pad" in settings else 0
        starts = np.arange(result[out.index(axis)])[:, None] * stride - low
        at = starts + np.arange(right[rhs.index(axis)])[None] * dilation
        size = (left[lhs.index(axis)] - 1) * base + 1
        flops *= int(((at >= 0) & (at < size) & (at % base == 0)).sum())
    groups = instruction.attribute(r"\bbatch_group_count=(\d+)")
    return flops // int(groups or 1)
