"""cuDNN's attention: the same numbers through XLA, and calls of cuDNN in programs for CUDA.

No GPU is needed to lower for one, only cuDNN's version, which the tests make up.
"""

import collections
import functools
import re
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import NamedSharding, PartitionSpec

from configs import pretrain
from igerg_jax.models import attention_cudnn, attention_kernel, layers
from igerg_jax.models.settings import BART_EPSILON, StackSettings
from igerg_jax.parallel import sharding

H, E = 4, 8
MASKS = {"causal": (True, False), "masked": (False, True), "open": (False, False)}


@pytest.fixture
def cudnn(monkeypatch):
    versions = types.SimpleNamespace(cudnn_get_version=lambda: 91100)
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.cuda_versions", versions)
    monkeypatch.setattr(attention_cudnn, "is_installed", lambda: True)


def inputs(length: int, keys: int = 0, rows: int = 3, head_width: int = E, dtype=np.float32):
    """(sources, keys [B, M], dy): of self-attention, or to another sequence of `keys` positions."""
    rng = np.random.default_rng(0)
    widths = [(length, 1), (keys, 2)] if keys else [(length, 3)]
    sources = tuple(
        rng.standard_normal((rows, n, w * H * head_width)).astype(dtype) for n, w in widths
    )
    real = np.arange(keys or length)[None] % 4 != rng.integers(1, 4, (rows, 1))  # with gaps
    dy = rng.standard_normal((rows, length, H * head_width)).astype(dtype)
    return sources, real, dy


def value_and_gradient(causal, masked, sources, keys, dy):
    keys = keys if masked else None
    y, pull = jax.vjp(lambda *x: attention_kernel.attend(x, keys, H, causal), *sources)
    return y, *pull(dy)


def lowered(function, arguments, **options) -> str:
    traced = jax.jit(function, **options).trace(*arguments)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def calls(program: str) -> dict[str, int]:
    """How often a program calls each of cuDNN's kernels."""
    return dict(collections.Counter(re.findall(r"custom_call @__cudnn\$(\w+)", program)))


@pytest.mark.parametrize("length", [10, 11])
@pytest.mark.parametrize(
    ("masks", "keys"), [*((masks, 0) for masks in MASKS), ("masked", 6), ("masked", 7), ("open", 7)]
)
def test_value_and_gradient_are_those_of_plain_jax(masks, length, keys):
    causal, masked = MASKS[masks]
    sources, real, dy = inputs(length, keys)

    def both(function):
        y, pull = jax.vjp(function, *sources)
        return y, *pull(dy)

    def through_xla(*sources):
        shown = real if masked else None
        split = attention_kernel._split(sources, H)
        y = attention_cudnn.attend(*split, shown, causal, implementation="xla")
        return y.reshape(dy.shape)

    def plain(*sources):
        shown = (real if masked else np.ones_like(real)).astype(np.float32)[:, None]
        return attention_kernel.reference(H, causal, sources, shown)

    for one, other in zip(both(through_xla), both(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("masks", "length", "keys", "name"),
    [
        ("causal", 10, 0, "fmhaSoftmax"),
        ("causal", 11, 0, "fmhaSoftmax"),
        ("open", 10, 0, "fmhaSoftmax"),
        ("open", 11, 0, "fmhaScaleBiasSoftmax"),  # hides the position that makes the length even
        ("open", 11, 6, "fmhaSoftmax"),
        ("masked", 10, 0, "fmhaScaleBiasSoftmax"),
        ("masked", 11, 7, "fmhaScaleBiasSoftmax"),
    ],
)
def test_a_program_for_cuda_calls_cudnn(cudnn, masks, length, keys, name):
    function = functools.partial(value_and_gradient, *MASKS[masks])
    program = lowered(function, inputs(length, keys, dtype=jnp.bfloat16))
    assert calls(program) == {name: 2, f"{name}Backward": 1}  # the forward pass runs twice
    assert "dot_general" not in program


@pytest.mark.parametrize(
    ("dtype", "head_width"), [(jnp.float32, 8), (jnp.bfloat16, 12), (jnp.bfloat16, 136)]
)
def test_what_cudnn_does_not_do_is_left_to_xla(cudnn, dtype, head_width):
    arguments = inputs(10, dtype=dtype, head_width=head_width)
    program = lowered(functools.partial(value_and_gradient, False, True), arguments)
    assert calls(program) == {} and "dot_general" in program


def test_without_the_cuda_plugin_programs_for_other_platforms_are_traced(monkeypatch):
    monkeypatch.setattr(attention_cudnn, "_PLUGINS", ("no_such_plugin",))
    arguments = inputs(10, dtype=jnp.bfloat16)
    program = lowered(functools.partial(value_and_gradient, False, True), arguments)
    assert calls(program) == {} and "dot_general" in program


def test_another_platform_gets_no_call(cudnn):
    traced = jax.jit(functools.partial(value_and_gradient, False, True)).trace(
        *inputs(10, dtype=jnp.bfloat16)
    )
    for platform in ("cpu", "tpu"):
        assert "cudnn" not in traced.lower(lowering_platforms=(platform,)).as_text()


def test_on_a_mesh_each_device_calls_cudnn_for_its_own_examples(cudnn):
    arguments = inputs(10, rows=16, dtype=jnp.bfloat16)
    mesh = sharding.make_mesh(dict(dcn=1, data=2, fsdp=4, tensor=1))
    rows = NamedSharding(mesh, PartitionSpec(("dcn", "data", "fsdp")))
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.rules(pretrain.get_config())):
        function = functools.partial(value_and_gradient, False, True)
        program = lowered(function, arguments, in_shardings=rows)
    assert calls(program) == {"fmhaScaleBiasSoftmax": 2, "fmhaScaleBiasSoftmaxBackward": 1}
    (forward, *_) = (line for line in program.splitlines() if "@__cudnn$fmhaScale" in line)
    shapes = re.findall(r"tensor<([\dx]+)xbf16>", forward)
    assert shapes and all(shape.startswith("2x") for shape in shapes), shapes


def test_a_scanned_and_rematerialised_encoder_calls_cudnn(cudnn):
    settings = StackSettings(
        heads=H,
        mlp_width=16,
        dropout_rate=0.0,
        norm_first=True,
        norm_epsilon=BART_EPSILON,
        gelu="exact",
        attention="fused",
        dtype=jnp.bfloat16,
        layers=2,
        scan_layers=True,
        remat="dots",
    )
    module = layers.Encoder(settings)
    x, real = np.zeros((2, 11, H * E), jnp.bfloat16), np.ones((2, 11), bool)
    arguments = small.make_params(module, x, real), x, real

    def loss(params, x, real):
        return module.apply({"params": params}, x, real).astype(jnp.float32).sum()

    # Once forward; once backward, where cuDNN's own forward pass goes first.
    program = lowered(jax.grad(loss), arguments)
    assert calls(program) == {"fmhaScaleBiasSoftmax": 2, "fmhaScaleBiasSoftmaxBackward": 1}
