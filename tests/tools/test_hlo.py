"""What libtpu writes in programs of its own way, and how often it then runs."""

from igerg_jax.tools.tpu_report import hlo

ASIDE = """HloModule step

%slice.1 (whole: f32[64,32]) -> f32[16,32] {
  %whole.1 = f32[64,32]{1,0} parameter(0)
  ROOT %part.1 = f32[16,32]{1,0} slice(%whole.1), slice={[0:16], [0:32]}
}

%fused (n: s32[], x: f32[16,32]) -> f32[16,32] {
  %x.1 = f32[16,32]{1,0} parameter(0)
  ROOT %twice = f32[16,32]{1,0} add(%x.1, %x.1)
}

%body (carry: (s32[], f32[16,32])) -> (s32[], f32[16,32]) {
  %carry = (s32[], f32[16,32]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%carry), index=0
  %x = f32[16,32]{1,0} get-tuple-element(%carry), index=1
  %big = f32[64,32]{1,0} broadcast(%n)
  %start = ((f32[64,32]{1,0}), f32[16,32]{1,0}, s32[]) async-start(%big), calls=%slice.1
  %done = f32[16,32]{1,0} async-done(%start)
  %y = f32[16,32]{1,0} fusion(%x), kind=kLoop, calls=%fused
  %two = s32[] constant(2)
  %next = s32[] add(%n, %two)
  ROOT %out = (s32[], f32[16,32]{1,0}) tuple(%next, %y)
}

%more (carry: (s32[], f32[16,32])) -> pred[] {
  %carry.1 = (s32[], f32[16,32]{1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%carry.1), index=0
  %eight = s32[] constant(8)
  ROOT %less = pred[] compare(%n.1, %eight), direction=LT
}

ENTRY %main (carry: (s32[], f32[16,32])) -> (s32[], f32[16,32]) {
  %carry.2 = (s32[], f32[16,32]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[16,32]{1,0}) while(%carry.2), condition=%more, body=%body
}
"""


def test_a_loop_that_counts_by_two_and_a_slice_that_is_copied_beside_it():
    """As libtpu writes products that begin while their operand is on its way, and prefetches."""
    ops = {op.name: op for op in hlo.Program(ASIDE).ops()}
    assert ops["y"].count == 4
    part = 16 * 32 * 4
    assert "part.1" not in ops and ops["start"].bytes == 2 * 2 * part  # start and end, as XLA


RETILED = """HloModule step

%retile (given: f32[24,16,128]) -> f32[24,16,128] {
  %given = f32[24,16,128]{2,1,0:T(16,128)} parameter(0)
  ROOT %copied = f32[24,16,128]{2,1,0:T(8,128)} copy(%given)
}

%fused (stack: f32[24,16,128]) -> f32[24,16,128] {
  %stack = f32[24,16,128]{2,1,0:T(16,128)} parameter(0)
  %n = s32[] parameter(1)
  %new = f32[1,16,128]{2,1,0} parameter(2)
  %same = f32[24,16,128]{2,1,0:T(8,128)} fusion(%stack), kind=kLoop, ALIAS, calls=%retile
  %zero = s32[] constant(0)
  %layer = f32[1,16,128]{2,1,0} dynamic-slice(%same, %n, %zero, %zero)
  %put = f32[24,16,128]{2,1,0} dynamic-update-slice(%same, %new, %n, %zero, %zero)
  ROOT %both = (f32[1,16,128]{2,1,0}, f32[24,16,128]{2,1,0}) tuple(%layer, %put)
}

ENTRY %main (stack: f32[24,16,128]) -> f32[24,16,128] {
  %stack.1 = f32[24,16,128]{2,1,0:T(16,128)} parameter(0)
  %n.1 = s32[] parameter(1)
  %new.1 = f32[1,16,128]{2,1,0} parameter(2)
  ROOT %y = (f32[1,16,128]{2,1,0}, f32[24,16,128]) fusion(%stack.1, %n.1, %new.1), calls=%fused
}
"""


def test_an_array_under_another_tiling_is_read_only_where_it_is_sliced():
    """As libtpu writes it for TPU7x. Without the alias it is a copy, which reads all of it."""
    layer = 16 * 128 * 4
    in_place = RETILED.replace("ALIAS", "output_to_operand_aliasing={{}: (0, {})}")
    (op,) = hlo.Program(in_place).ops()
    # The layer that is read, the new one, the index; the layer and the update that are written.
    assert op.bytes == 4 * layer + 4
    (op,) = hlo.Program(RETILED.replace("ALIAS, ", "")).ops()
    assert op.bytes == (24 + 3) * layer + 4
