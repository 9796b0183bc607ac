"""The parser of compiled programs against XLA's own counts and counts by hand; model FLOPs."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import PartitionSpec

from configs import pretrain
from igerg_jax.errors import OutOfMemory, UserError
from igerg_jax.parallel import sharding
from igerg_jax.tools.tpu_report import compile_report, hlo, hlo_collectives, hlo_text
from igerg_jax.training import model_flops, train_state, train_step

ROOT = pathlib.Path(__file__).parents[2]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


def compiled(function, *shapes, **options):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function, **options).lower(*arguments).compile()


def total(program: hlo.Program, field: str) -> float:
    return sum(op.count * getattr(op, field) for op in program.ops())


def layers(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]


def test_a_loop_is_counted_as_often_as_it_runs():
    one = compiled(layers, (32, 64), (64, 64))
    assert total(hlo.Program(one.as_text()), "flops") == 5 * 2 * 32 * 64 * 64
    # XLA's own count is of one pass: this is why the text is read at all.
    assert one.cost_analysis()["flops"] < 2 * 2 * 32 * 64 * 64


def test_loops_in_loops_multiply():
    def twice(x, w):
        return jax.lax.scan(lambda x, _: (layers(x, w), None), x, None, length=3)[0]

    one = compiled(twice, (32, 64), (64, 64))
    assert total(hlo.Program(one.as_text()), "flops") == 15 * 2 * 32 * 64 * 64


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda a, b: a @ b, [(8, 16), (16, 4)], 2 * 8 * 16 * 4),
        (
            lambda a, b: jnp.einsum("bij,bkj->bik", a, b),
            [(3, 8, 16), (3, 5, 16)],
            2 * 3 * 8 * 16 * 5,
        ),
        (lambda a: a + 1, [(8, 16)], 0),
    ],
    ids=["matrices", "batches", "elementwise"],
)
def test_flops_of_the_trace_and_of_the_program(function, shapes, expected):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert model_flops.forward_flops(function, *arguments) == expected
    assert total(hlo.Program(compiled(function, *shapes).as_text()), "flops") == expected


def test_convolutions_count_what_is_multiplied():
    def convolve(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=numbers)

    shapes = (2, 8, 8, 3), (2, 2, 3, 5)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    expected = 2 * (2 * 4 * 4 * 5) * (2 * 2 * 3)
    assert model_flops.forward_flops(convolve, *arguments) == expected
    assert total(hlo.Program(compiled(convolve, *shapes).as_text()), "flops") == expected


def test_padding_multiplies_nothing():
    """As XLA's TPU compiler writes a batch of products: a convolution that is mostly empty."""
    line = (
        "  %c = f32[12,196,64]{2,1,0} convolution(%a, %b), window={size=12 stride=11 pad=0_0 "
        "lhs_dilate=12}, dim_labels=0bf_0oi->0bf"
    )
    instruction = hlo_text.parse(line)
    found = hlo._convolution(instruction, (12, 196, 32), (12, 64, 32))
    assert found == 12 * 2 * 196 * 64 * 32


def test_bytes_are_xlas_where_nothing_loops():
    def adam(p, m, v, g):
        m, v = 0.9 * m + 0.1 * g, 0.9 * v + 0.1 * g * g
        return p - m / (jnp.sqrt(v) + 1e-8), m, v

    one = compiled(adam, *[(256, 128)] * 4)
    found = total(hlo.Program(one.as_text()), "bytes")
    assert found == pytest.approx(one.cost_analysis()["bytes accessed"], rel=1e-3)
    assert found >= 7 * 256 * 128 * 4


def test_a_slice_reads_what_it_takes():
    """One layer's weights out of a stack, as the body of a scan over layers does."""

    def pick(stack, x):
        return jax.lax.scan(lambda x, w: (x + w, None), x, stack)[0]

    program = hlo.Program(compiled(pick, (50, 1000), (1000,)).as_text())
    assert 50 * 3 * 4000 <= total(program, "bytes") < 50 * 5 * 4000  # not 50 x 50


def test_collectives_on_a_mesh():
    mesh = sharding.make_mesh(dict(dcn=2, data=1, fsdp=4, tensor=1))

    def step(w, x):  # weights divided within a slice, gradients summed over all
        y = x @ jax.lax.all_gather(w, "fsdp", tiled=True)
        gradient = jax.lax.psum_scatter(x.T @ y, "fsdp", tiled=True)
        return jax.lax.psum(gradient, "dcn")

    rows = PartitionSpec(("dcn", "fsdp"))
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(PartitionSpec("fsdp"), rows), out_specs=PartitionSpec("fsdp")
    )
    program = hlo.Program(compiled(mapped, (64, 32), (16, 64)).as_text())
    found = {one.kind: one for one in hlo_collectives.collectives(program, 8, 2)}
    assert set(found) == {"all-gather", "reduce-scatter", "all-reduce"}
    whole = 64 * 32 * 4
    for kind, group, crosses, sent in (
        ("all-gather", 4, False, whole * 3 / 4),
        ("reduce-scatter", 4, False, whole * 3 / 4),
        ("all-reduce", 2, True, whole / 4),
    ):
        one = found[kind]
        assert (one.group, one.crosses, one.wire_bytes) == (group, crosses, sent), kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups={{0,3},{1,2}}", [[0, 3], [1, 2]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", [[0, 2], [1, 3]]),
    ],
)
def test_groups_of_a_collective(text, expected):
    instruction = hlo_text.parse(f"  %r = f32[4]{{0}} all-reduce(%a), {text}, to_apply=%add")
    np.testing.assert_array_equal(hlo_collectives._groups(instruction, 4), expected)


IN_FUSIONS = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (whole: f32[64,32]) -> f32[16,32] {
  %whole = f32[64,32]{1,0} parameter(0)
  %all-reduce.1 = f32[64,32]{1,0} all-reduce(%whole), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %mine = f32[16,32]{1,0} dynamic-slice(%all-reduce.1, %zero, %zero), dynamic_slice_sizes={16,32}
}

%async_collective_fusion.1 (x: f32[8,16], w: f32[16,8], part: f32[100], room: f32[400]) -> (f32[8,8], f32[100], f32[400]) {
  %x = f32[8,16]{1,0} parameter(0)
  %w = f32[16,8]{1,0} parameter(1)
  %part = f32[100]{0} parameter(2)
  %room = f32[400]{0} parameter(3)
  %dot.1 = f32[8,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %all-gather.1 = f32[400]{0} all-gather(%part), channel_id=2, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %both = (f32[8,8]{1,0}, f32[100]{0}, f32[400]{0}) tuple(%dot.1, %part, %all-gather.1)
}

ENTRY %main (whole: f32[64,32], x: f32[8,16], w: f32[16,8], part: f32[100], room: f32[400]) -> f32[16,32] {
  %whole = f32[64,32]{1,0} parameter(0)
  %x = f32[8,16]{1,0} parameter(1)
  %w = f32[16,8]{1,0} parameter(2)
  %part = f32[100]{0} parameter(3)
  %room = f32[400]{0} parameter(4)
  %fusion.2 = (f32[8,8]{1,0}, f32[100]{0}, f32[400]{0}) fusion(%x, %w, %part, %room), kind=kOutput, calls=%async_collective_fusion.1
  ROOT %fusion.1 = f32[16,32]{1,0} fusion(%whole), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501


def test_collectives_in_a_tpus_fusions():
    """XLA's TPU compiler writes a reduce-scatter as an all-reduce and a slice, in a fusion; and a
    gather that goes on beside a product as results of the product's fusion."""
    program = hlo.Program(IN_FUSIONS)
    sent = {one.kind: one.wire_bytes for one in hlo_collectives.collectives(program, 4, 1)}
    assert sent == {"reduce-scatter": 64 * 32 * 4 * 3 / 4, "all-gather": 400 * 4 * 3 / 4}
    product = next(op for op in program.ops() if op.name == "fusion.2")
    assert product.flops == 2 * 8 * 8 * 16
    assert product.bytes == (8 * 16 + 16 * 8 + 8 * 8) * 4  # nothing of the gather's


SENT = """HloModule step

ENTRY %main (part: f32[16,32]) -> f32[16,32] {
  %part = f32[16,32]{1,0} parameter(0)
  %all-reduce.1 = f32[16,32]{1,0} all-reduce(%part), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add, metadata={op_name="jit(step)/transpose(jvp(Igerg.see))/dot_general"}
  %bitcast.1 = f32[16,32]{1,0} bitcast(%all-reduce.1)
  %after-all = token[] after-all()
  %send = (f32[16,32]{1,0}, u32[], token[]) send(%bitcast.1, %after-all), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %copy.1 = f32[16,32]{1,0} copy(%bitcast.1)
}
"""  # noqa: E501


def test_what_a_slice_hands_to_its_host_crosses():
    """A program of several slices is written for one: what crosses is a transfer to the host."""
    found = hlo_collectives.collectives(hlo.Program(SENT), 8, 2)
    crossing = [(one.kind, one.group, one.wire_bytes) for one in found if one.crosses]
    assert crossing == [("all-reduce", 2, 16 * 32 * 4)] and len(found) == 2
    assert compile_report.between_slices(found)[0]["from"] == "transpose(jvp(see))/dot_general"


def test_what_crosses_slices_is_named():
    def one(crosses, op_name, size):
        return hlo_collectives.Collective("all-reduce", 3.0, size, 2, crosses, op_name)

    gradient = "jit(step)/transpose(jvp(Igerg.encode))/encoder/while/body/mlp/in/dot_general"
    found = [one(True, "jit(step)/jvp()/reduce_sum", 4), one(True, gradient, 100)]
    found += [one(True, gradient, 100), one(False, gradient, 1000)]
    rows = compile_report.between_slices(found)
    assert [(row["count"], row["bytes"]) for row in rows] == [(6, 600), (3, 12)]
    assert rows[0]["from"] == "transpose(jvp(encode))/encoder/mlp/in/dot_general"


def test_tiles_pad_what_lies_in_memory():
    array = hlo_text.parse("  %x = bf16[64,12,196,196]{3,2,1,0:T(8,128)(2,1)S(1)} copy(%y)").arrays[
        0
    ]
    assert array.size == (64 * 12 * 200 * 256 * 2, 0)  # all of it in on-chip memory


def setup_of(**changes):
    config = small.only(small.make_config(**changes), "emotional_response")
    return train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1])


def test_a_report_of_this_machine(tmp_path):
    config = small.only(small.make_config(), "image_emotion")
    config.data.tokenizer.vocab_size = small.VOCAB_SIZE
    report = compile_report.compile_for(config, "", 1)
    compile_report.write(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["devices"] == 8
    # What the program multiplies is the model's work and what is computed again for gradients.
    assert 0.8 < report["program_flops"] / report["model_flops"] < 2
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1])
    assert report["memory"]["parameters"] == sum(
        leaf.size * 4 for leaf in jax.tree.leaves(setup.abstract_state.params)
    )
    assert "TFLOP" in compile_report.describe(report)


def test_a_report_has_the_costs_of_shorter_batches():
    config = small.only(small.make_config(data__length_buckets=((6, 3),)), "text_emotion")
    config.data.tokenizer.vocab_size = small.VOCAB_SIZE
    report = compile_report.compile_for(config, "", 1)
    (shorter,) = report["shorter"]
    assert (shorter["context_tokens"], shorter["response_tokens"]) == (6, 3)
    # The judge reads half of the response's six tokens; its classifier reads their mean.
    assert 0.4 < shorter["model_flops"] / report["model_flops"] < 0.55
    assert 0.4 < shorter["program_flops"] / report["program_flops"] < 0.55
    assert "batches of 6 + 3 tokens" in compile_report.describe(report)


def test_search_finds_the_largest_batch_of_every_policy(monkeypatch):
    sizes = (0, 16, 64, 128, 256)  # examples that fit
    fits = dict(zip(compile_report.REMAT_PAIRS, sizes, strict=True))
    tried = []

    def compile_for(config, topology, slices):
        remat = (config.model.vision.remat, config.model.text.remat)
        size = config.train.batch_size
        tried.append((remat, size))
        if size > fits[remat]:
            raise OutOfMemory("too large")
        named = dict(zip(("vision", "text"), remat, strict=True))
        return {"remat": named, "batch_size": size, "mfu": {"per_op": size / 999}}

    monkeypatch.setattr(compile_report, "compile_for", compile_for)
    config = small.make_config(train__batch_size=32)
    monkeypatch.setattr(compile_report, "topology_devices", lambda *_: jax.devices())
    found = compile_report.search(config, "v5e:2x4", 1)
    largest = {tuple(report["remat"].values()): report["batch_size"] for report in found}
    assert largest == {name: size for name, size in fits.items() if size}
    assert len(tried) == len(set(tried)) and min(size for _, size in tried) == 8
    assert compile_report.best(found)["remat"] == {"vision": "full", "text": "full"}
    assert config.train.batch_size == 32


def test_a_search_ends_though_every_batch_fits(monkeypatch):
    sizes = []

    def compile_for(config, topology, slices):
        sizes.append(config.train.batch_size)
        return {"batch_size": sizes[-1]}

    monkeypatch.setattr(compile_report, "compile_for", compile_for)
    monkeypatch.setattr(compile_report, "topology_devices", lambda *_: jax.devices())
    monkeypatch.setattr(compile_report, "REMAT_PAIRS", (("none", "none"),))
    (report,) = compile_report.search(small.make_config(train__batch_size=32), "v5e:2x4", 1)
    assert sizes == [32 * 2**i for i in range(compile_report.MOST_DOUBLINGS + 1)]
    assert report["batch_size"] == sizes[-1]


def test_a_search_without_a_topology_is_refused_since_it_may_never_end():
    with pytest.raises(UserError, match="needs a --topology"):
        compile_report.search(small.make_config(), "", 1)


def test_what_does_not_fit_is_named_with_what_to_change(monkeypatch):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM")

    monkeypatch.setattr(compile_report.train_step, "lower_step", lambda setup: Lowered())
    config = small.only(small.make_config(), "text_denoising")
    with pytest.raises(OutOfMemory, match="Ran out of memory on HBM") as found:
        compile_report.compile_for(config, "", 1)
    message = str(found.value)
    assert message.count("GiB") == 9  # eight arrays, and what stays between steps
    assert "train.batch_size" in message and "remat" in message


def test_depth_does_not_lengthen_the_program():
    """What is compiled, and so the time it takes, hardly grows with layers that are scanned."""

    def length(layers):
        config = small.only(small.with_pixels(small.make_config()), "emotional_response")
        config.model.vision.layers = layers
        config.model.text.update(encoder_layers=layers, decoder_layers=layers)
        model, batch = small.make_model(config), small.make_batch(config, batch_size=1)
        gradient = jax.jit(
            lambda params, key: train_step.loss_gradient(config, model, params, batch, key, 0)
        )
        return len(gradient.lower(small.make_params(model, batch), jax.random.key(0)).as_text())

    assert length(24) < 1.02 * length(6)


def test_without_the_compiler_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(compile_report.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requirements-tpu\.txt"):
        compile_report.topology_devices("v5e:2x4", 1)


ON_A_TPU = """
import sys
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from igerg_jax.parallel import chips
from igerg_jax.tools.tpu_report import compile_report, hlo

device = compile_report.topology_devices("v5e:2x2", 1)[0]
place, chip = SingleDeviceSharding(device), chips.chip_of(device.device_kind)

def layer(q, k, v, w):
    y = jax.nn.dot_product_attention(q, k, v).reshape(*q.shape[:2], -1)
    return jax.nn.gelu(y @ w).astype(jnp.float32).sum()

shapes = [(16, 196, 12, 64)] * 3 + [(768, 3072)]
arguments = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=place) for s in shapes]
lowered = jax.jit(jax.grad(layer, argnums=(0, 1, 2, 3))).lower(*arguments)
one, text = compile_report._compile(lowered, to_file=True)
xla, ops = one.cost_analysis(), hlo.Program(text).ops()
assert [op.cycles for op in ops] == [op.cycles for op in hlo.Program(one.as_text()).ops()]
seconds = sum(
    op.count * max(op.flops / chip.xla_flops, op.bytes / chip.xla_bytes_per_second) for op in ops
)
xla_seconds = xla["optimal_seconds"] % 1  # 1 is taken off for every instruction it cannot judge
print(sum(op.flops for op in ops) / xla["flops"])
print(sum(op.bytes for op in ops) / xla["bytes accessed"])
print(seconds / xla_seconds)
"""


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs pip install -r requirements-tpu.txt")
def test_counts_agree_with_xlas_for_a_tpu():
    environment = os.environ | dict(
        JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
    )
    del environment["XLA_FLAGS"]  # the tests' own are for the CPU's compiler
    done = subprocess.run(
        [sys.executable, "-c", ON_A_TPU], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ratios = [float(line) for line in done.stdout.split()]
    assert all(0.93 < ratio < 1.07 for ratio in ratios), ratios


def compile_mode(*arguments: str) -> subprocess.CompletedProcess:
    """main.py for a topology, with the objective that compiles soonest alone."""
    off = [
        f"--config.objectives.{name}.weight=0"
        for name in pretrain.get_config().objectives
        if name != "sequence_emotion"
    ]
    command = [sys.executable, "main.py", "--config=configs/pretrain.py", "--mode=compile", *off]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs pip install -r requirements-tpu.txt")
def test_what_does_not_fit_a_device_ends_with_exit_code_3():
    done = compile_mode("--topology=v5e:2x2", "--config.train.batch_size=2000000")
    assert done.returncode == 3, done.stderr[-2000:]
    message = done.stderr[done.stderr.index("error: ") :]
    assert "pretrain:local does not fit" in message and "exceeds available HBM" in message
    assert "float32[8000000,64,64,3]" in message  # 91.55 GiB: the pixels, in float32
    assert "Lower train.batch_size" in message


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs pip install -r requirements-tpu.txt")
def test_a_report_of_two_slices(tmp_path):
    file = tmp_path / "report.json"
    contrastive = "--config.objectives.image_text_contrastive."
    within = (f"{contrastive}weight=0.1", f"{contrastive}negatives=slice")
    done = compile_mode("--topology=v5e:2x2", "--slices=2", f"--report={file}", *within)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(file.read_text())
    assert (report["devices"], report["mesh"]["dcn"], report["chip"]) == (8, 2, "v5e")
    assert report["memory"]["total"] < 2**30 and report["compile_seconds"] > 1
    # A slice's devices share what crosses: no more than the gradient, and sums of the loss.
    crosses = sum(row["bytes"] for row in report["between_slices"])
    assert 0 < crosses < report["memory"]["parameters"]
    assert {row["kind"] for row in report["between_slices"]} == {"all-reduce"}
    places = [row["from"] for row in report["between_slices"] if row["bytes"] > 0.08 * crosses]
    assert places and all(place.startswith("transpose(jvp(") for place in places), places
