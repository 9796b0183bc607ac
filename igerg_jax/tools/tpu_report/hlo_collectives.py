"""The collectives of a compiled program, read from its HLO text."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from igerg_jax.tools.tpu_report.hlo import COLLECTIVES, Program
from igerg_jax.tools.tpu_report.hlo_origin import origin
from igerg_jax.tools.tpu_report.hlo_text import Array, Instruction, ints, total_size


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation, as one device sees it."""

    kind: str
    count: float  # times it runs in a step
    bytes: int  # of the full result (all-gather) or operand (the others), each time
    group: int  # devices that take part in one of its groups
    crosses: bool  # some group has devices of several slices
    op_name: str

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends each time, on a ring: 2 (g-1)/g or (g-1)/g of them."""
        if self.kind == "collective-permute":
            return self.bytes
        return self.bytes * (self.group - 1) / self.group * (1 + (self.kind == "all-reduce"))


def collectives(program: Program, devices: int, slices: int) -> list[Collective]:
    """Every collective of a program; devices are numbered slice by slice."""
    by_channel: dict[str, Collective] = {}
    for name, count in _counts_with_fusions(program).items():
        for instruction in program.computations[name].values():
            one = _collective(program, name, instruction, count, devices, slices)
            if one:
                # The fusions in which one starts, continues and ends all contain it.
                channel = instruction.attribute(r"channel_id=(\d+)")
                channel = f"{one.kind} {channel or instruction.name}"
                if channel not in by_channel or by_channel[channel].count < count:
                    by_channel[channel] = one
    return list(by_channel.values())


def _collective(
    program: Program, name: str, instruction: Instruction, count: float, devices: int, slices: int
) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind == "send":
        return _between_slices(program, name, instruction, count, slices)
    if kind not in COLLECTIVES:
        return None
    if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # as the TPU compiler writes one: a fusion
    groups = _groups(instruction, devices)
    arrays = instruction.arrays
    if kind == "all-gather":
        # The type of a started one is (operands, results).
        size = total_size(arrays).total if len(arrays) == 1 else max(_halves(arrays))
    else:
        size = sum(
            total_size(program.computations[name][operand].arrays).total
            for operand in instruction.operands
        )
    per_slice = devices // slices
    crosses = any(len(set(row // per_slice)) > 1 for row in groups)
    return Collective(kind, count, size, groups.shape[1], crosses, instruction.op_name)


def _between_slices(
    program: Program, name: str, instruction: Instruction, count: float, slices: int
) -> Collective | None:
    """What a slice sends to the others: its program hands it to the host, after reducing its own
    part."""
    kind = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"')
    if not kind:
        return None
    kind = kind.lower().replace("_", "-")
    size = instruction.arrays[0].size.total * (slices if kind == "all-gather" else 1)
    where = origin(program.computations, name, instruction, name in _loop_bodies(program))
    return Collective(kind, count, size, slices, True, where)


def _counts_with_fusions(program: Program) -> dict[str, float]:
    """`Program.counts`, and the same of the computations inside fusions."""
    counts = dict(program.counts)
    for name, count in program.counts.items():
        for instruction in program.computations[name].values():
            if instruction.opcode == "fusion":
                called = instruction.attribute(r"calls=%([\w.-]+)")
                counts[called] = counts.get(called, 0.0) + count
    return counts


def _loop_bodies(program: Program) -> set[str]:
    every = (i for inside in program.computations.values() for i in inside.values())
    return {i.attribute(r"body=%([\w.-]+)") for i in every if i.opcode == "while"}


def _halves(arrays: tuple[Array, ...]) -> tuple[int, int]:
    middle = len(arrays) // 2
    return total_size(arrays[:middle]).total, total_size(arrays[middle:]).total


def _groups(instruction: Instruction, devices: int) -> np.ndarray:
    """int[groups, devices of a group]."""
    iota = re.search(
        r"(?:replica_groups|source_target_pairs)=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?",
        instruction.attributes,
    )
    if iota:
        shape, over, order = (ints(part) for part in iota.groups(default=""))
        ids = np.arange(math.prod(over)).reshape(over)
        return ids.transpose(order or range(len(over))).reshape(shape)
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", instruction.attributes)
    if named:
        return _mesh_groups(named[1], named[2])
    listed = re.search(
        r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", instruction.attributes
    )
    if listed:
        return np.array([ints(row) for row in re.findall(r"\{([\d,]+)\}", listed[1])])
    return np.arange(devices)[None]


def _mesh_groups(mesh: str, axes: str) -> np.ndarray:
    """Of groups written as axes of a mesh: mesh['a'=2,'b'=4] {'b'}."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    together = re.findall(r"'([^']+)'", axes)
    apart = [name for name in sizes if name not in together]
    ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
    order = [list(sizes).index(name) for name in (*apart, *together)]
    group = math.prod(sizes[name] for name in together)
    return ids.transpose(order).reshape(-1, group)
