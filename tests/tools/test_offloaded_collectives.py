"""Collectives that the SparseCores of TPU7x run, as its compiler writes them."""

from igerg_jax.tools.tpu_report import hlo, hlo_collectives

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
