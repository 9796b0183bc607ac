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

B, L, H, E = 3, 11, 4, 8


def inputs(seed: int = 0, rows: int = B, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, L, 3 * H * E)).astype(dtype)
    keys = np.arange(L)[None, None] < rng.integers(1, L + 1, (rows, 1, 1))
    dy = rng.standard_normal((rows, L, H * E)).astype(dtype)
    return x, keys.astype(np.float32), dy


def forward(causal: bool, x, keys):
    kernel = functools.partial(attention_kernel.forward_kernel, H, causal, interpret=True)
    return jax.jit(kernel)(x, keys)


def reference(causal: bool):
    return jax.jit(functools.partial(attention_kernel.reference, H, causal))


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_is_its_reference(causal):
    x, keys, _ = inputs()
    expected = reference(causal)(x, keys)
    np.testing.assert_allclose(forward(causal, x, keys), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernels_gradient_is_that_of_its_reference(causal):
    x, keys, dy = inputs()

    @jax.jit
    def gradients(x, keys, dy):
        pull = jax.vjp(lambda x: attention_kernel.reference(H, causal, x, keys), x)[1]
        return attention_kernel.backward_kernel(H, causal, x, keys, dy, interpret=True), pull(dy)[0]

    found, expected = gradients(x, keys, dy)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # What may not be attended to gets nothing: neither as a key nor as a value.
    hidden = np.repeat(keys[:, 0] == 0, 2, axis=-1).reshape(B, L, 2)[..., 0]
    keys_and_values = np.asarray(found)[..., H * E :]
    assert not keys_and_values[hidden].any() and keys_and_values[~hidden].any()


def test_bfloat16_stays_near():
    x, keys, _ = inputs()
    found = forward(False, jnp.bfloat16(x), keys)
    assert found.dtype == jnp.bfloat16
    exact = reference(False)(x, keys)
    np.testing.assert_allclose(found.astype(np.float32), exact, rtol=0.05, atol=0.05)


def test_on_a_mesh_each_device_attends_to_its_own_examples():
    x, keys, dy = inputs(rows=8)
    mesh = sharding.make_mesh(dict(dcn=1, data=2, fsdp=4, tensor=1))
    rules = sharding.rules(pretrain.get_config())

    def gradient(x, keys):
        attend = lambda x: attention_kernel.attend(x, keys[:, 0] > 0, H, False)  # noqa: E731
        y, pull = jax.vjp(attend, x)
        return y, pull(dy)[0]

    rows = NamedSharding(mesh, PartitionSpec(("dcn", "data", "fsdp")))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        compiled = jax.jit(gradient, in_shardings=rows).lower(x, keys).compile()
    text = compiled.as_text()
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    for found, expected in zip(
        compiled(*jax.device_put((x, keys), rows)), jax.jit(gradient)(x, keys), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
