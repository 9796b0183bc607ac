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


def inputs(length: int, rows: int = 3, head_width: int = E, dtype=np.float32):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, length, 3 * H * head_width)).astype(dtype)
    keys = np.arange(length)[None] % 4 != rng.integers(1, 4, (rows, 1))  # with gaps
    dy = rng.standard_normal((rows, length, H * head_width)).astype(dtype)
    return x, keys, dy


def value_and_gradient(causal, masked, x, keys, dy):
    keys = keys if masked else None
    y, pull = jax.vjp(lambda x: attention_kernel.attend(x, keys, H, causal), x)
    return y, pull(dy)[0]


def lowered(function, arguments, **options) -> str:
    traced = jax.jit(function, **options).trace(*arguments)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def calls(program: str) -> dict[str, int]:
    """How often a program calls each of cuDNN's kernels."""
    return dict(collections.Counter(re.findall(r"custom_call @__cudnn\$(\w+)", program)))


@pytest.mark.parametrize("length", [10, 11])
@pytest.mark.parametrize("masks", MASKS)
def test_value_and_gradient_are_those_of_plain_jax(masks, length):
    causal, masked = MASKS[masks]
    x, keys, dy = inputs(length)
    keys_Bx1xL = (keys if masked else np.ones_like(keys)).astype(np.float32)[:, None]

    def both(function):
        y, pull = jax.vjp(lambda x: function(x, keys_Bx1xL), x)
        return y, pull(dy)[0]

    # What may not be read is not: `keys` hold zeros where `masked` is False.
    unread = keys_Bx1xL if masked else np.zeros_like(keys_Bx1xL)
    through_xla = functools.partial(attention_cudnn.attend, H, causal, masked)
    found = both(lambda x, _: through_xla(x, unread, implementation="xla"))
    expected = both(functools.partial(attention_kernel.reference, H, causal))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("masks", "length", "name"),
    [
        ("causal", 10, "fmhaSoftmax"),
        ("causal", 11, "fmhaSoftmax"),
        ("open", 10, "fmhaSoftmax"),
        ("open", 11, "fmhaScaleBiasSoftmax"),  # hides the position that makes the length even
        ("masked", 10, "fmhaScaleBiasSoftmax"),
        ("masked", 11, "fmhaScaleBiasSoftmax"),
    ],
)
def test_a_program_for_cuda_calls_cudnn(cudnn, masks, length, name):
    program = lowered(
        functools.partial(value_and_gradient, *MASKS[masks]), inputs(length, dtype=jnp.bfloat16)
    )
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
