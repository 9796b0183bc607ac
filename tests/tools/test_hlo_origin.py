"""Where an instruction without a name comes from."""

from igerg_jax.tools.tpu_report import hlo_collectives, hlo_text

IN_A_LOOP = """HloModule step

%fused (p: f32[8], q: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %q = f32[8]{0} parameter(1)
  %sum = f32[8]{0} add(%p, %q), metadata={op_name="jit(step)/transpose(jvp(see))/reduce_sum"}
  ROOT %copy = f32[8]{0} copy(%sum)
}

%body (carried: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carried = (s32[], f32[8]{0}) parameter(0)
  %counter = s32[] get-tuple-element(%carried), index=0
  %before = f32[8]{0} get-tuple-element(%carried), index=1
  %zero = f32[8]{0} constant({0,0,0,0,0,0,0,0}), metadata={op_name="jit(step)/jvp(decode)/slice"}
  %joined = f32[8]{0} maximum(%zero, %before)
  %token = token[] after-all()
  %send = (f32[8]{0}, u32[], token[]) send(%joined, %token), channel_id=2, is_host_transfer=true
  %gradient = f32[8]{0} fusion(%zero, %before), kind=kLoop, calls=%fused
  ROOT %next = (s32[], f32[8]{0}) tuple(%counter, %gradient)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}
"""


def test_what_bears_no_name_comes_from_what_feeds_it():
    """A gradient that the pass before has left, in a fusion; not a constant that others share."""
    computations, _ = hlo_text.computations(IN_A_LOOP)
    body = computations["body"]
    where = hlo_collectives.origin(computations, "body", body["send"], is_loop=True)
    assert where == "jit(step)/transpose(jvp(see))/reduce_sum"
    assert hlo_collectives.origin(computations, "body", body["counter"], is_loop=True) == ""
    # Elsewhere a tuple's parameter has nothing to do with what a computation returns.
    assert hlo_collectives.origin(computations, "body", body["send"], is_loop=False) == ""
