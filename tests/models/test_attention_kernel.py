"""The attention kernel, interpreted, against plain JAX; and on a mesh."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import pretrain
from igerg_jax.models import attention_kernel
from igerg_jax.parallel import sharding

B, L, M, H, E = 3, 11, 7, 4, 8
# Self-attention, and attention to another sequence.
KINDS = {"self": False, "causal": True, "other": False}


def inputs(kind: str, rows: int = B, dtype=np.float32):
    """(sources, keys [B, 1, M], dy) of one of `KINDS`."""
    rng = np.random.default_rng(0)
    widths, keys = ([(L, 3)], L) if kind != "other" else ([(L, 1), (M, 2)], M)
    sources = tuple(rng.standard_normal((rows, n, w * H * E)).astype(dtype) for n, w in widths)
    real = np.arange(keys)[None, None] < rng.integers(1, keys + 1, (rows, 1, 1))
    dy = rng.standard_normal((rows, L, H * E)).astype(dtype)
    return sources, real.astype(np.float32), dy


def forward(causal: bool, sources, keys):
    kernel = functools.partial(attention_kernel.forward_kernel, H, causal, interpret=True)
    return jax.jit(kernel)(sources, keys)


def reference(causal: bool):
    return jax.jit(functools.partial(attention_kernel.reference, H, causal))


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_is_its_reference(kind):
    sources, keys, _ = inputs(kind)
    expected = reference(KINDS[kind])(sources, keys)
    np.testing.assert_allclose(forward(KINDS[kind], sources, keys), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_gradient_is_that_of_its_reference(kind):
    sources, keys, dy = inputs(kind)
    causal = KINDS[kind]

    @jax.jit
    def gradients(sources, keys, dy):
        pull = jax.vjp(lambda *x: attention_kernel.reference(H, causal, x, keys), *sources)[1]
        kernel = attention_kernel.backward_kernel
        return kernel(H, causal, sources, keys, dy, interpret=True), pull(dy)

    found, expected = gradients(sources, keys, dy)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    # What may not be attended to gets nothing: neither as a key nor as a value.
    hidden = keys[:, 0] == 0
    keys_and_values = np.asarray(found[-1])[..., -2 * H * E :]
    assert not keys_and_values[hidden].any() and keys_and_values[~hidden].any()


def test_bfloat16_stays_near():
    sources, keys, _ = inputs("self")
    found = forward(False, jax.tree.map(jnp.bfloat16, sources), keys)
    assert found.dtype == jnp.bfloat16
    exact = reference(False)(sources, keys)
    np.testing.assert_allclose(found.astype(np.float32), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", ["self", "other"])
def test_on_a_mesh_each_device_attends_to_its_own_examples(kind):
    sources, keys, dy = inputs(kind, rows=8)
    mesh = sharding.make_mesh(dict(dcn=1, data=2, fsdp=4, tensor=1))
    rules = sharding.rules(pretrain.get_config())

    def gradient(sources, keys):
        attend = lambda *x: attention_kernel.attend(x, keys[:, 0] > 0, H, False)  # noqa: E731
        y, pull = jax.vjp(attend, *sources)
        return y, *pull(dy)

    rows = NamedSharding(mesh, PartitionSpec(("dcn", "data", "fsdp")))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        compiled = jax.jit(gradient, in_shardings=rows).lower(sources, keys).compile()
    text = compiled.as_text()
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    for found, expected in zip(
        compiled(*jax.device_put((sources, keys), rows)),
        jax.jit(gradient)(sources, keys),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
