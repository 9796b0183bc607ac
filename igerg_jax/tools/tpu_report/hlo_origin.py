"""Where an instruction without an op_name comes from: the nearest of its inputs that has one."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping

from igerg_jax.tools.tpu_report.hlo_text import Instruction

_SHARED = ("constant", "parameter")


def origin(
    computations: Mapping[str, Mapping[str, Instruction]],
    name: str,
    instruction: Instruction,
    is_loop: bool,
) -> str:
    """The place in the Python program that `instruction`, in computation `name`, comes from.

    Instructions that the compiler adds (combined reductions, copies, buffers) have no place of
    their own. Their operands are followed breadth-first, in a loop's body (`is_loop`) into the
    previous iteration; a fusion stands for its last instruction that has a place. Constants and
    parameters are skipped, since unrelated instructions share them.

    Returns:
      An `op_name`; "" where none of its inputs has one.
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


def _fused_name(computations, fusion: Instruction) -> str:
    called = fusion.attribute(r"calls=%([\w.-]+)")
    if fusion.opcode != "fusion" or not called:
        return ""
    named = [i.op_name for i in computations[called].values() if i.opcode not in _SHARED]
    return next(filter(None, reversed(named)), "")


def _feeds(inside: Mapping[str, Instruction], one: Instruction, is_loop: bool) -> Iterable[str]:
    """Operands; of a value that a loop carries, its value after the previous iteration."""
    if (
        is_loop
        and one.opcode == "get-tuple-element"
        and inside[one.operands[0]].opcode == "parameter"
    ):
        root = next(i for i in inside.values() if i.is_root)
        if root.opcode == "tuple":
            return (root.operands[int(one.attribute(r"index=(\d+)"))],)
    return one.operands
