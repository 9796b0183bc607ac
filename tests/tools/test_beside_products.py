"""What runs beside the products: collectives on TPU7x's SparseCores, and prefetches."""

import pytest

from igerg_jax.parallel.chips import CHIPS
from igerg_jax.tools.tpu_report import compile_report, hlo, hlo_collectives

# As the compiler for TPU7x writes it.
OFFLOADED = """HloModule step

%called.1 (part: bf16[64,1024]) -> bf16[1024,1024] {
  %part = bf16[64,1024]{1,0} parameter(0)
  %tuple.1 = (bf16[64,1024]{1,0}) tuple(%part)
  %get-tuple-element.1 = bf16[64,1024]{1,0} get-tuple-element(%tuple.1), index=0
  ROOT %all-gather.1 = bf16[1024,1024]{1,0} all-gather(%get-tuple-element.1), channel_id=1, replica_groups=mesh['axis_0'=8,'axis_1'=16] {'axis_1'}, dimensions={0}
}, execution_thread="sparsecore"

%async_computation.1 (part: bf16[64,1024]) -> bf16[1024,1024] {
  %part = bf16[64,1024]{1,0} parameter(0)
  ROOT %custom-call.1 = bf16[1024,1024]{1,0} custom-call(%part), custom_call_target="TODO(b/522284627)", called_computations={%called.1}
}, execution_thread="sparsecore"

ENTRY %main (part: bf16[64,1024]) -> bf16[1024,1024] {
  %part = bf16[64,1024]{1,0} parameter(0)
  %start = ((bf16[64,1024]{1,0}), bf16[1024,1024]{1,0}, u32[]) async-start(%part), async_execution_thread="sparsecore", calls=%async_computation.1
  ROOT %done = bf16[1024,1024]{1,0} async-done(%start)
}
"""  # noqa: E501


def test_collectives_of_the_sparse_core_are_counted_once():
    program = hlo.Program(OFFLOADED)
    (one,) = hlo_collectives.collectives(program, 128, 1)
    whole, part = 2 * 1024 * 1024, 2 * 64 * 1024
    assert (one.kind, one.group, one.count) == ("all-gather", 16, 1)
    assert one.wire_bytes == whole * 15 / 16
    assert sum(op.count * op.bytes for op in program.ops()) == whole + part


def test_prefetches_are_part_of_the_per_op_time():
    chip = CHIPS["TPU v5 lite"]
    copied, read = (int(milliseconds * chip.xla_bytes_per_second / 1e3) for milliseconds in (2, 3))
    ops = [
        hlo.Op("copy-start.1", 4, 0, copied, copied, 0, ""),
        hlo.Op("fusion.2", 1, 0, read, read, 0, "norm"),
    ]
    costs = dict(program_flops=0, hbm_bytes_accessed=0, collectives=[], model_flops=0)
    found = compile_report.estimates(costs, ops, chip)
    assert found["step_seconds"]["per_op"] == pytest.approx(11e-3)
    assert found["prefetch_seconds"] == pytest.approx(8e-3)
