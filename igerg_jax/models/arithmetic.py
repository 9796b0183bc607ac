"""Products, GELU, layer norm and argmax, in the form that XLA's CPU compiler computes fastest.

Mathematically they are `jnp.tensordot`, `jax.nn.gelu`, Linen's LayerNorm and `jnp.argmax`. A
feed-forward layer (norm, 192 to 768, GELU, back, residual; 32 x 64 tokens, float32) takes 58 ms
forward and backward with those and 28 ms with these, on two cores (`python -m
benchmarks.arithmetic`). Letters as in `igerg_jax.batch`; x = any axes.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from igerg_jax.models.partitioning import is_one_cpu

_TRANSPOSED_WIDTH, _WIDE_ROWS = 128, 1024  # see `_matrix_product`


def product(x: jax.Array, kernel: jax.Array, axes: int = 1) -> jax.Array:
    """`jnp.tensordot(x, kernel, axes)`: the last `axes` axes of `x` with the first of `kernel`."""
    if not is_one_cpu():
        return jnp.tensordot(x, kernel, axes)
    free, summed = x.shape[: x.ndim - axes], math.prod(kernel.shape[:axes])
    y = _matrix_product(x.reshape(-1, summed), kernel.reshape(summed, -1))
    return y.reshape(*free, *kernel.shape[axes:])


def table_product(x_xD: jax.Array, table_VxD: jax.Array) -> jax.Array:
    """float32 [..., V]: the product of each of a few x with every row of a large table.

    On a CPU as table * x^T, which does not copy the table into another order first: for 32 x and
    BART's vocabulary it takes three quarters of the time. The barrier keeps XLA from turning it.
    """
    if not is_one_cpu():
        return jnp.einsum("...d,vd->...v", x_xD, table_VxD, preferred_element_type=jnp.float32)
    x_NxD = x_xD.reshape(-1, x_xD.shape[-1])
    y_VxN = jnp.matmul(table_VxD, x_NxD.T, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(y_VxN).T.reshape(*x_xD.shape[:-1], -1)


@jax.custom_vjp
def _matrix_product(x_NxD: jax.Array, kernel_DxW: jax.Array) -> jax.Array:
    """For a CPU, where this gradient makes the layer above 1.8 times as fast.

    XLA's own gradient sums over [B, L] as two axes. For that, the CPU compiler transposes the
    larger operand, and multiplies by the transpose of the other with a slower library. Here it sums
    over one axis. Up to a width of 128 the smaller operand is transposed first, and the barriers
    keep XLA from undoing that: it saves 7 % of a layer there, and would cost 1 to 7 % from 192 on.
    But where dy's rows have 1,024 numbers or more, the product without it reads them with strides
    of 4 KiB, which share cache sets: for 2,048 x of 768 and dy of 3,072 it takes 282 ms, and 173
    with it (256 and 1,024: 30 and 19 ms; 192 and 768: 9.8 and 11.3; one core of Zen 3).
    """
    return x_NxD @ kernel_DxW


def _matrix_product_backward(kept, dy_NxW):
    x_NxD, kernel_DxW = kept
    dx_NxD = dy_NxW @ kernel_DxW.T
    if min(kernel_DxW.shape) > _TRANSPOSED_WIDTH and dy_NxW.shape[1] < _WIDE_ROWS:
        return dx_NxD, x_NxD.T @ dy_NxW
    barrier = jax.lax.optimization_barrier
    if x_NxD.shape[1] <= dy_NxW.shape[1]:
        return dx_NxD, barrier(x_NxD.T) @ dy_NxW
    return dx_NxD, barrier(barrier(dy_NxW.T) @ x_NxD).T


_matrix_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matrix_product_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x), exact (https://arxiv.org/abs/1606.08415), computed in float32.

    `jax.nn.gelu` uses erfc, which keeps relative precision for the values near 0 below x = -3, but
    takes 1.5 times as long on a CPU, gradient included. Here the absolute error is float32's.
    """
    x_float32 = x.astype(jnp.float32)
    return (x_float32 * _normal_cdf(x_float32)).astype(x.dtype)


def _gelu_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    x_float32 = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * x_float32 * x_float32) / math.sqrt(2 * math.pi)
    slope = _normal_cdf(x_float32) + x_float32 * density
    return ((dy.astype(jnp.float32) * slope).astype(x.dtype),)


# Saves only x for the backward pass. XLA by itself would save, or compute twice, what the value and
# the slope have in common.
gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x_xD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm over the last axis (https://arxiv.org/abs/1607.06450), in float32.

    Its gradient is written out: by automatic differentiation it takes 1.3 times as long on a CPU,
    and 1.4 times to compile.
    """
    return _normalised(x_xD, *_moments(x_xD, epsilon), scale_D, bias_D)


def _normalised(x_xD, mean_xx1, inverse_xx1, scale_D, bias_D) -> jax.Array:
    return (x_xD - mean_xx1) * inverse_xx1 * _row(scale_D, x_xD) + _row(bias_D, x_xD)


def _normalise_forward(x_xD, scale_D, bias_D, epsilon):
    # Rematerialisation keeps what has this name; see `settings.REMAT_POLICIES`.
    mean_xx1, inverse_xx1 = (checkpoint_name(m, "moments") for m in _moments(x_xD, epsilon))
    y_xD = _normalised(x_xD, mean_xx1, inverse_xx1, scale_D, bias_D)
    return y_xD, (x_xD, mean_xx1, inverse_xx1, scale_D)


def _normalise_backward(epsilon, kept, dy_xD):
    x_xD, mean_xx1, inverse_xx1, scale_D = kept
    unit_xD = (x_xD - mean_xx1) * inverse_xx1
    dunit_xD = dy_xD * _row(scale_D, x_xD)
    along_xx1 = (dunit_xD * unit_xD).mean(-1, keepdims=True)
    dx_xD = (dunit_xD - dunit_xD.mean(-1, keepdims=True) - unit_xD * along_xx1) * inverse_xx1
    others = tuple(range(x_xD.ndim - 1))
    return dx_xD.astype(x_xD.dtype), (dy_xD * unit_xD).sum(others), dy_xD.sum(others)


normalise.defvjp(_normalise_forward, _normalise_backward)


def _moments(x_xD: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """(mean, 1 / standard deviation), float32 [..., 1]."""
    x_xD = x_xD.astype(jnp.float32)
    mean_xx1 = x_xD.mean(-1, keepdims=True)
    variance_xx1 = (x_xD * x_xD).mean(-1, keepdims=True) - mean_xx1 * mean_xx1
    return mean_xx1, jax.lax.rsqrt(jnp.maximum(variance_xx1, 0.0) + epsilon)


def argmax(x_xV: jax.Array) -> jax.Array:
    """`jnp.argmax` over the last axis, int32; 0 where there is a NaN.

    XLA stores `x`, since it is used twice. `jnp.argmax` would compute it within its own loop, which
    the CPU compiler does not vectorise: sampling a token for 256 rows, out of 2,048, takes 23 ms
    with that and 8 ms with this, on one core. Beside a softmax, whose maximum this shares, it is
    6.7 ms and 1.3 ms for 640 rows.
    """
    vocabulary = x_xV.shape[-1]
    ids_xV = jax.lax.broadcasted_iota(jnp.int32, x_xV.shape, x_xV.ndim - 1)
    below_xV = x_xV < x_xV.max(-1, keepdims=True)
    return jnp.where(below_xV, vocabulary, ids_xV).min(-1)


def _row(x_D: jax.Array, like_xD: jax.Array) -> jax.Array:
    return x_D.reshape((1,) * (like_xD.ndim - 1) + x_D.shape)
