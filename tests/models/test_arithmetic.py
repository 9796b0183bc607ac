"""Each function is what it is named after, and so is its gradient."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from igerg_jax.models import arithmetic


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value_and_grads(function, *arguments):
    """Of the function's value weighted at random, so that every entry's gradient counts."""

    def weighted(*arguments):
        y = function(*arguments)
        return (y * normal(*y.shape, seed=9)).sum()

    return jax.value_and_grad(weighted, tuple(range(len(arguments))))(*arguments)


# Kernels wider and narrower than their input, over one axis and two, a large one, and wide ones.
@pytest.mark.parametrize(
    "axes, kernel",
    [
        *((1, (6, 9)), (1, (6, 2)), (1, (6, 3, 4)), (2, (5, 6, 7))),
        *((1, (130, 129)), (1, (130, 1024)), (1, (1030, 1024))),
    ],
)
def test_product_is_tensordot(axes, kernel):
    x, kernel = normal(4, 3, *(5,)[: 2 - axes], *kernel[:axes]), normal(*kernel, seed=1)
    assert arithmetic.is_one_cpu()
    got = value_and_grads(lambda x, k: arithmetic.product(x, k, axes), x, kernel)
    want = value_and_grads(lambda x, k: jnp.tensordot(x, k, axes), x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), got, want)


def test_a_product_with_a_table_is_of_each_x_with_each_row():
    rng = np.random.default_rng(0)
    table_VxD = rng.standard_normal((7, 5)).astype(np.float32)
    for shape in ((5,), (3, 5), (2, 3, 5)):
        x_xD = rng.standard_normal(shape).astype(np.float32)
        found = jax.jit(arithmetic.table_product)(x_xD, table_VxD)
        np.testing.assert_allclose(found, x_xD @ table_VxD.T, rtol=1e-5, atol=1e-6)
        low = arithmetic.table_product(x_xD.astype(jnp.bfloat16), table_VxD.astype(jnp.bfloat16))
        assert low.dtype == jnp.float32


def test_gelu_is_exact():
    x = np.linspace(-6, 6, 241, dtype=np.float32)
    cdf = 0.5 * (1 + np.vectorize(math.erf)(x.astype(float) / math.sqrt(2)))
    density = np.exp(-0.5 * x.astype(float) ** 2) / math.sqrt(2 * math.pi)
    slope = jax.vmap(jax.grad(arithmetic.gelu))(x)
    np.testing.assert_allclose(arithmetic.gelu(x), x * cdf, atol=5e-7)
    np.testing.assert_allclose(slope, cdf + x * density, atol=5e-7)


def test_gelu_of_bfloat16_is_the_nearest_to_the_exact_value():
    x = jnp.linspace(-4, 4, 101, dtype=jnp.bfloat16)
    want = arithmetic.gelu(x.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(arithmetic.gelu(x), want)


def test_normalise_is_layer_norm():
    x, scale, bias = normal(3, 4, 8) * 2 + 1, normal(8, seed=1), normal(8, seed=2)
    norm = nn.LayerNorm(epsilon=1e-5)

    def linen(x, scale, bias):
        return norm.apply({"params": {"scale": scale, "bias": bias}}, x)

    got = value_and_grads(lambda *a: arithmetic.normalise(*a, 1e-5), x, scale, bias)
    want = value_and_grads(linen, x, scale, bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)
    check_grads(lambda *a: arithmetic.normalise(*a, 1e-5), (x, scale, bias), 1, modes=["rev"])


def test_normalise_of_equal_entries_is_the_bias():
    # What is masked is zeros all along.
    x, scale, bias = np.zeros((2, 8), np.float32), normal(8), normal(8, seed=1)
    value, (dx, _, _) = value_and_grads(lambda *a: arithmetic.normalise(*a, 1e-5), x, scale, bias)
    np.testing.assert_allclose(arithmetic.normalise(x, scale, bias, 1e-5), np.tile(bias, (2, 1)))
    assert np.isfinite(dx).all() and np.isfinite(value)


def test_normalise_keeps_the_gradients_dtype_and_computes_float32():
    x = jnp.asarray(normal(3, 8), jnp.bfloat16)
    one, zero = jnp.ones(8), jnp.zeros(8)
    assert arithmetic.normalise(x, one, zero, 1e-5).dtype == jnp.float32
    assert jax.grad(lambda x: arithmetic.normalise(x, one, zero, 1e-5)[0, 0])(x).dtype == x.dtype


def test_argmax_is_the_first_of_the_largest():
    x = np.round(2 * normal(3, 50, 9))  # many ties
    x[0, 0], x[0, 1, 4] = -np.inf, np.inf
    got = jax.jit(arithmetic.argmax)(x)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, x.argmax(-1))
    assert arithmetic.argmax(np.full((1, 4), np.nan, np.float32)) == 0  # a token, whatever it is
