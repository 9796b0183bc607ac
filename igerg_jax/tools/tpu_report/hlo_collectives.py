"""The collectives of a compiled program, read from its HLO text."""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from igerg_jax.tools.tpu_report.hlo import COLLECTIVES, Program
from igerg_jax.tools.tpu_report.hlo_text import Computation, Instruction, ints, root, total_size

_SHARED = ("constant", "parameter")  # which unrelated instructions share


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
            if instruction.opcode == "send":
                one = _between_slices(program, name, instruction, count, slices)
            else:
                one = _within_program(program, name, instruction, count, devices, slices)
            if one:
                # The fusions in which one starts, continues and ends all contain it.
                channel = instruction.attribute(r"channel_id=(\d+)")
                channel = f"{one.kind} {channel or instruction.name}"
                if channel not in by_channel or by_channel[channel].count < count:
                    by_channel[channel] = one
    return list(by_channel.values())


def _within_program(
    program: Program, name: str, instruction: Instruction, count: float, devices: int, slices: int
) -> Collective | None:
    kind, arrays = instruction.opcode.removesuffix("-start"), instruction.arrays
    if kind not in COLLECTIVES:
        return None
    if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # as the TPU compiler writes one: a fusion
    if kind == "all-gather":
        # The type of a started one is (operands, results); the results are the larger ones.
        middle = len(arrays) // 2
        size = max(total_size(half).total for half in (arrays[:middle], arrays[middle:]))
    else:
        inside = program.computations[name]
        size = sum(total_size(inside[operand].arrays).total for operand in instruction.operands)
    groups = _groups(instruction, devices)
    crosses = any(len(set(row // (devices // slices))) > 1 for row in groups)
    return Collective(kind, count, size, groups.shape[1], crosses, instruction.op_name)


def _between_slices(
    program: Program, name: str, instruction: Instruction, count: float, slices: int
) -> Collective | None:
    """The transfer of a slice's part, reduced within it, to the other slices through the host."""
    kind = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"')
    if not kind:
        return None
    kind = kind.lower().replace("_", "-")
    size = instruction.arrays[0].size.total * (slices if kind == "all-gather" else 1)
    every = (i for inside in program.computations.values() for i in inside.values())
    loops = {i.attribute(r"body=%([\w.-]+)") for i in every if i.opcode == "while"}
    where = origin(program.computations, name, instruction, name in loops)
    return Collective(kind, count, size, slices, True, where)


def _counts_with_fusions(program: Program) -> dict[str, float]:
    """`Program.counts`, with the computations inside fusions."""
    counts = collections.Counter(program.counts)
    for name, count in program.counts.items():
        for instruction in program.computations[name].values():
            if instruction.opcode == "fusion":
                counts[instruction.called] += count
    return counts


def origin(
    computations: Mapping[str, Computation], name: str, instruction: Instruction, is_loop: bool
) -> str:
    """The place in the Python program that `instruction`, in computation `name`, comes from.

    Instructions that the compiler adds (combined reductions, copies, buffers) have no place of
    their own. Their operands are followed breadth-first, in a loop's body (`is_loop`) into the
    previous iteration; a fusion has the place of its last instruction that has one. Constants and
    parameters are skipped, since unrelated instructions share them.

    Returns:
      An `op_name`; "" if none of its inputs has one.
    """
    inside = computations[name]
    waiting, seen = collections.deque([instruction]), {instruction.name}
    while waiting:
        one = waiting.popleft()
        if one.opcode in _SHARED:
            continue
        if name_here := one.op_name or _fused_name(computations, one):
            return name_here
        before = [operand for operand in _feeds(inside, one, is_loop) if operand not in seen]
        seen.update(before)
        waiting.extend(inside[operand] for operand in before)
    return ""


def _fused_name(computations: Mapping[str, Computation], fusion: Instruction) -> str:
    if fusion.opcode != "fusion":
        return ""
    fused = reversed(computations[fusion.called].values())
    return next((i.op_name for i in fused if i.op_name and i.opcode not in _SHARED), "")


def _feeds(inside: Computation, one: Instruction, is_loop: bool) -> tuple[str, ...]:
    """The operands, or for a value that a loop carries, its value after the previous iteration."""
    if is_loop and one.opcode == "get-tuple-element":
        result = root(inside)
        if inside[one.operands[0]].opcode == "parameter" and result.opcode == "tuple":
            return (result.operands[int(one.attribute(r"index=(\d+)"))],)
    return one.operands


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
    listed = instruction.attribute(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
    if listed:
        return np.array([ints(row) for row in re.findall(r"\{([\d,]+)\}", listed)])
    return np.arange(devices)[None]


def _mesh_groups(mesh: str, axes: str) -> np.ndarray:
    """The groups of a notation by mesh axes: mesh['a'=2,'b'=4] {'b'}."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    together = re.findall(r"'([^']+)'", axes)
    apart = [name for name in sizes if name not in together]
    ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
    order = [list(sizes).index(name) for name in (*apart, *together)]
    group = math.prod(sizes[name] for name in together)
    return ids.transpose(order).reshape(-1, group)
