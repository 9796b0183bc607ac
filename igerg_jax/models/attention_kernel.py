"""Self-attention's products and softmax as one kernel: a TPU's, given here, or cuDNN's.

A window's sequences are short (196 patches, some 150 tokens), so that a head's whole score matrix
fits in VMEM. XLA writes it to HBM and reads it back, several times over in the backward pass,
which then takes as long as the matrix products do. The TPU kernel keeps it on the chip: it reads
queries, keys and values once, and recomputes the scores in the backward pass (Dao et al. 2022,
FlashAttention, https://arxiv.org/abs/2205.14135, without its tiling, which sequences of this
length do not need; JAX's own flash_attention pads heads of 64 to 128 lanes, which makes it slower
here than XLA's attention). On NVIDIA GPUs, see `attention_cudnn`.

Letters as in `igerg_jax.models.attention`; heads lie side by side, D = H * E.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from igerg_jax.models import attention_cudnn
from igerg_jax.models.partitioning import map_batch_shards

_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


def attend(x_BxLx3D: jax.Array, keys_BxL: jax.Array | None, heads: int, causal: bool) -> jax.Array:
    """softmax(q k^T / sqrt(E)) v, [B, L, D]: one kernel on TPUs and, where cuDNN has one for these
    heads, on NVIDIA GPUs; plain JAX elsewhere.

    Args:
      x_BxLx3D: queries, keys and values side by side, each with its heads side by side.
      keys_BxL: bool, which keys may be attended to; None = all.
      causal: position l attends to keys up to l.
    """
    batch, length, _ = x_BxLx3D.shape
    masked = keys_BxL is not None
    keys_Bx1xL = jnp.ones((batch, 1, length), jnp.float32)
    if masked:
        keys_Bx1xL = keys_BxL.astype(jnp.float32)[:, None]
    attend_rows = functools.partial(_attend, heads, causal, masked)
    return map_batch_shards(attend_rows, x_BxLx3D, keys_Bx1xL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(heads: int, causal: bool, masked: bool, x_BxLx3D, keys_Bx1xL) -> jax.Array:
    kernels = dict(tpu=functools.partial(forward_kernel, heads, causal))
    if _has_cudnn(x_BxLx3D, heads):
        kernels["cuda"] = functools.partial(attention_cudnn.attend, heads, causal, masked)
    plain = functools.partial(reference, heads, causal)
    return jax.lax.platform_dependent(x_BxLx3D, keys_Bx1xL, **kernels, default=plain)


def _attend_forward(heads, causal, masked, x_BxLx3D, keys_Bx1xL):
    return _attend(heads, causal, masked, x_BxLx3D, keys_Bx1xL), (x_BxLx3D, keys_Bx1xL)


def _attend_backward(heads, causal, masked, kept, dy_BxLxD):
    plain = functools.partial(reference, heads, causal)
    kernels = dict(tpu=functools.partial(backward_kernel, heads, causal))
    if _has_cudnn(kept[0], heads):
        cudnn = functools.partial(attention_cudnn.attend, heads, causal, masked)
        kernels["cuda"] = functools.partial(_pull_back, cudnn)
    default = functools.partial(_pull_back, plain)
    dx_BxLx3D = jax.lax.platform_dependent(*kept, dy_BxLxD, **kernels, default=default)
    return dx_BxLx3D, jnp.zeros_like(kept[1])


_attend.defvjp(_attend_forward, _attend_backward)


def _has_cudnn(x_BxLx3D, heads: int) -> bool:
    head_width = x_BxLx3D.shape[-1] // 3 // heads
    return attention_cudnn.is_installed() and attention_cudnn.supports(x_BxLx3D.dtype, head_width)


def _pull_back(function, x_BxLx3D, keys_Bx1xL, dy_BxLxD) -> jax.Array:
    """The gradient of `function(x, keys)` with respect to `x`. It computes the result once more, as
    the TPU kernel does: all platforms keep the same arrays for the backward pass."""
    return jax.vjp(lambda x: function(x, keys_Bx1xL), x_BxLx3D)[1](dy_BxLxD)[0]


def reference(heads: int, causal: bool, x_BxLx3D, keys_Bx1xL) -> jax.Array:
    """What the kernel computes, in plain JAX."""
    b, length, d3 = x_BxLx3D.shape
    split = jnp.moveaxis(x_BxLx3D.reshape(b, length, 3, heads, -1), 2, 0)
    mask = keys_Bx1xL[:, None] > 0
    y_BxLxHxE = jax.nn.dot_product_attention(*split, mask=mask, is_causal=causal)
    return y_BxLxHxE.reshape(b, length, d3 // 3)


def forward_kernel(heads, causal, x_BxLx3D, keys_Bx1xL, interpret=False) -> jax.Array:
    """The TPU kernel: [B, L, 3D], float32 [B, 1, L] -> [B, L, D]."""
    b, length, d3 = x_BxLx3D.shape
    out = jax.ShapeDtypeStruct((b, length, d3 // 3), x_BxLx3D.dtype)
    return _call(_forward, heads, causal, (x_BxLx3D, keys_Bx1xL), out, 2, interpret)


def backward_kernel(heads, causal, x_BxLx3D, keys_Bx1xL, dy_BxLxD, interpret=False) -> jax.Array:
    """The TPU kernel of the gradient with respect to `x`, [B, L, 3D]."""
    inputs = x_BxLx3D, keys_Bx1xL, dy_BxLxD
    out = jax.ShapeDtypeStruct(x_BxLx3D.shape, x_BxLx3D.dtype)
    return _call(_backward, heads, causal, inputs, out, 5, interpret)


def _call(kernel, heads, causal, inputs, out, products: int, interpret: bool):
    """One program instance per example; its blocks are whole sequences."""

    def block(x):
        return pl.BlockSpec((1, *x.shape[1:]), lambda b: (b, 0, 0))

    b, length, d3 = inputs[0].shape
    scores = b * heads * length**2
    return pl.pallas_call(
        functools.partial(kernel, heads, causal),
        grid=(b,),
        in_specs=[block(x) for x in inputs],
        out_specs=block(out),
        out_shape=out,
        cost_estimate=pl.CostEstimate(
            flops=2 * products * scores * (d3 // 3 // heads),
            transcendentals=scores,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*inputs, out)),
        ),
        interpret=interpret,
    )(*inputs)


def _forward(heads, causal, x_ref, keys_ref, y_ref):
    allowed = _allowed(keys_ref, causal)
    for q_at, k_at, v_at in _heads(x_ref.shape[2], heads):
        p, total = _weights(x_ref[0, :, q_at], x_ref[0, :, k_at], allowed)
        v = x_ref[0, :, v_at]
        y_ref[0, :, q_at] = (_product(p.astype(v.dtype), v, 1, 0) / total).astype(y_ref.dtype)


def _backward(heads, causal, x_ref, keys_ref, dy_ref, dx_ref):
    allowed = _allowed(keys_ref, causal)
    for q_at, k_at, v_at in _heads(x_ref.shape[2], heads):
        q, k, v = (x_ref[0, :, at] for at in (q_at, k_at, v_at))
        dy = dy_ref[0, :, q_at]
        p, total = _weights(q, k, allowed)
        p = p / total
        dp = _product(dy, v, 1, 1)
        ds = p * (dp - (p * dp).sum(axis=1, keepdims=True)) * q.shape[1] ** -0.5
        ds = ds.astype(q.dtype)
        dx_ref[0, :, q_at] = _product(ds, k, 1, 0).astype(dx_ref.dtype)
        dx_ref[0, :, k_at] = _product(ds, q, 0, 0).astype(dx_ref.dtype)
        dx_ref[0, :, v_at] = _product(p.astype(dy.dtype), dy, 0, 0).astype(dx_ref.dtype)


def _heads(width3: int, heads: int) -> list[tuple[slice, slice, slice]]:
    """The lanes of each head's queries, keys and values."""
    width = width3 // 3
    size = width // heads
    starts = range(0, width, size)
    return [
        tuple(slice(part + s, part + s + size) for part in (0, width, 2 * width)) for s in starts
    ]


def _allowed(keys_ref, causal: bool) -> jax.Array:
    """bool [L or 1, L]: which keys (columns) a query (row) may attend to."""
    allowed_1xL = keys_ref[0] > 0
    if not causal:
        return allowed_1xL
    shape = (keys_ref.shape[2],) * 2
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return allowed_1xL & (rows >= columns)


def _weights(q_LxE, k_LxE, allowed) -> tuple[jax.Array, jax.Array]:
    """(exp(scores - max), float32 [L, L]; its row sums [L, 1])."""
    scores_LxL = _product(q_LxE, k_LxE, 1, 1) * q_LxE.shape[1] ** -0.5
    scores_LxL = jnp.where(allowed, scores_LxL, _MASKED)
    p_LxL = jnp.exp(scores_LxL - scores_LxL.max(axis=1, keepdims=True))
    return p_LxL, p_LxL.sum(axis=1, keepdims=True)


def _product(a, b, a_axis: int, b_axis: int) -> jax.Array:
    """Contracts two matrices over an axis of each; float32."""
    numbers = (((a_axis,), (b_axis,)), ((), ()))
    return jax.lax.dot_general(a, b, numbers, preferred_element_type=jnp.float32)
