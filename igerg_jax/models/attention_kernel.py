"""Attention's products and softmax as one kernel: a TPU's, given here, or cuDNN's.

A window's sequences are short (196 patches, some 150 tokens), so that a head's whole score matrix
fits in VMEM. XLA writes it to HBM and reads it back, several times over in the backward pass,
which then takes as long as the matrix products do. The TPU kernel keeps it on the chip: it reads
queries, keys and values once, and recomputes the scores in the backward pass (Dao et al. 2022,
FlashAttention, https://arxiv.org/abs/2205.14135, without its tiling, which sequences of this
length do not need; JAX's own flash_attention pads heads of 64 to 128 lanes, which makes it slower
here than XLA's attention). On NVIDIA GPUs, see `attention_cudnn`.

Letters as in `igerg_jax.models.attention`; heads lie side by side, D = H * E. `sources` are the
arrays that hold queries, keys and values, in this order: (x_BxLx3D,) of self-attention, where one
product makes all three; (q_BxLxD, kv_BxMx2D) of attention to another sequence.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from igerg_jax.models import attention_cudnn
from igerg_jax.models.partitioning import map_batch_shards

Sources = tuple[jax.Array, ...]

_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


def attend(sources: Sources, keys_BxM: jax.Array | None, heads: int, causal: bool) -> jax.Array:
    """softmax(q k^T / sqrt(E)) v, [B, L, D]: one kernel on TPUs and, where cuDNN has one for these
    heads, on NVIDIA GPUs; plain JAX elsewhere.

    Args:
      sources: what holds q, k and v; see above.
      keys_BxM: bool, which keys may be attended to; None = all.
      causal: position l attends to keys up to l.
    """
    batch, length, _ = sources[-1].shape
    masked = keys_BxM is not None
    keys_Bx1xM = jnp.ones((batch, 1, length), jnp.float32)
    if masked:
        keys_Bx1xM = keys_BxM.astype(jnp.float32)[:, None]

    def attend_rows(keys_Bx1xM, *sources):
        return _attend(heads, causal, masked, sources, keys_Bx1xM)

    return map_batch_shards(attend_rows, keys_Bx1xM, *sources)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(heads: int, causal: bool, masked: bool, sources: Sources, keys_Bx1xM) -> jax.Array:
    kernels = dict(tpu=functools.partial(forward_kernel, heads, causal))
    if _has_cudnn(sources, heads):
        kernels["cuda"] = functools.partial(_cudnn, heads, causal, masked)
    plain = functools.partial(reference, heads, causal)
    return jax.lax.platform_dependent(sources, keys_Bx1xM, **kernels, default=plain)


def _attend_forward(heads, causal, masked, sources, keys_Bx1xM):
    return _attend(heads, causal, masked, sources, keys_Bx1xM), (sources, keys_Bx1xM)


def _attend_backward(heads, causal, masked, kept, dy_BxLxD):
    kernels = dict(tpu=functools.partial(backward_kernel, heads, causal))
    if _has_cudnn(kept[0], heads):
        cudnn = functools.partial(_cudnn, heads, causal, masked)
        kernels["cuda"] = functools.partial(_pull_back, cudnn)
    default = functools.partial(_pull_back, functools.partial(reference, heads, causal))
    dsources = jax.lax.platform_dependent(*kept, dy_BxLxD, **kernels, default=default)
    return dsources, jnp.zeros_like(kept[1])


_attend.defvjp(_attend_forward, _attend_backward)


def _pull_back(function: Callable, sources: Sources, keys_Bx1xM, dy_BxLxD) -> Sources:
    """The gradient of `function(sources, keys)` with respect to `sources`. It computes the result
    once more, as the TPU kernel does: all platforms keep the same arrays for the backward pass."""
    return jax.vjp(lambda *x: function(x, keys_Bx1xM), *sources)[1](dy_BxLxD)


def _width(sources: Sources) -> int:
    """D."""
    return sum(x.shape[-1] for x in sources) // 3


def _split(sources: Sources, heads: int) -> list[jax.Array]:
    """Queries [B, L, H, E], keys and values [B, M, H, E]."""
    width = _width(sources)
    parts = [part for x in sources for part in jnp.split(x, x.shape[-1] // width, axis=-1)]
    return [part.reshape(*part.shape[:2], heads, -1) for part in parts]


def reference(heads: int, causal: bool, sources: Sources, keys_Bx1xM) -> jax.Array:
    """What the kernel computes, in plain JAX."""
    mask = keys_Bx1xM[:, None] > 0
    split = _split(sources, heads)
    y_BxLxHxE = jax.nn.dot_product_attention(*split, mask=mask, is_causal=causal)
    return y_BxLxHxE.reshape(*y_BxLxHxE.shape[:2], -1)


def _has_cudnn(sources: Sources, heads: int) -> bool:
    head_width = _width(sources) // heads
    return attention_cudnn.is_installed() and attention_cudnn.supports(sources[0].dtype, head_width)


def _cudnn(heads: int, causal: bool, masked: bool, sources: Sources, keys_Bx1xM) -> jax.Array:
    keys_BxM = keys_Bx1xM[:, 0] > 0 if masked else None
    y_BxLxHxE = attention_cudnn.attend(*_split(sources, heads), keys_BxM, causal)
    return y_BxLxHxE.reshape(*y_BxLxHxE.shape[:2], -1)


def forward_kernel(heads, causal, sources, keys_Bx1xM, interpret=False) -> jax.Array:
    """The TPU kernel: `sources` and float32 [B, 1, M] to [B, L, D]."""
    out = jax.ShapeDtypeStruct((*sources[0].shape[:2], _width(sources)), sources[0].dtype)
    (y_BxLxD,) = _call(_forward, heads, causal, (sources, keys_Bx1xM), (out,), 2, interpret)
    return y_BxLxD


def backward_kernel(heads, causal, sources, keys_Bx1xM, dy_BxLxD, interpret=False) -> Sources:
    """The TPU kernel of the gradient with respect to `sources`."""
    out = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in sources)
    inputs = sources, keys_Bx1xM, dy_BxLxD
    return tuple(_call(_backward, heads, causal, inputs, out, 5, interpret))


def _call(kernel, heads, causal, inputs, out, products: int, interpret: bool) -> Sequence:
    """One program instance per example; its blocks are whole sequences."""

    def block(x):
        return pl.BlockSpec((1, *x.shape[1:]), lambda b: (b, 0, 0))

    sources, keys_Bx1xM, *_ = inputs
    b, length, _ = sources[0].shape
    scores = b * heads * length * keys_Bx1xM.shape[2]
    arrays = jax.tree.leaves(inputs)
    return pl.pallas_call(
        functools.partial(kernel, heads, causal),
        grid=(b,),
        in_specs=[block(x) for x in arrays],
        out_specs=[block(x) for x in out],
        out_shape=out,
        cost_estimate=pl.CostEstimate(
            flops=2 * products * scores * (_width(sources) // heads),
            transcendentals=scores,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*arrays, *out)),
        ),
        interpret=interpret,
    )(*arrays)


def _forward(heads, causal, *refs):
    *source_refs, keys_ref, y_ref = refs
    allowed = _allowed(keys_ref, y_ref.shape[1], causal)
    for head, places in enumerate(_places(source_refs, heads)):
        q, k, v = (source_refs[i][0, :, lanes] for i, lanes in places)
        p, total = _weights(q, k, allowed)
        y = _product(p.astype(v.dtype), v, 1, 0) / total
        y_ref[0, :, _lanes(0, head, v.shape[1])] = y.astype(y_ref.dtype)


def _backward(heads, causal, *refs):
    count = len(refs) // 2 - 1
    source_refs, (keys_ref, dy_ref), dsource_refs = refs[:count], refs[count:-count], refs[-count:]
    allowed = _allowed(keys_ref, dy_ref.shape[1], causal)
    for head, places in enumerate(_places(source_refs, heads)):
        q, k, v = (source_refs[i][0, :, lanes] for i, lanes in places)
        dy = dy_ref[0, :, _lanes(0, head, v.shape[1])]
        p, total = _weights(q, k, allowed)
        p = p / total
        dp = _product(dy, v, 1, 1)
        ds = p * (dp - (p * dp).sum(axis=1, keepdims=True)) * q.shape[1] ** -0.5
        ds = ds.astype(q.dtype)
        dqkv = _product(ds, k, 1, 0), _product(ds, q, 0, 0), _product(p.astype(dy.dtype), dy, 0, 0)
        for (i, lanes), gradient in zip(places, dqkv, strict=True):
            dsource_refs[i][0, :, lanes] = gradient.astype(dy.dtype)


def _places(source_refs: Sequence, heads: int) -> list[list[tuple[int, slice]]]:
    """Where each head's queries, keys and values are: the source's number, and its lanes."""
    width = _width(source_refs)
    parts = [(i, n) for i, x in enumerate(source_refs) for n in range(x.shape[-1] // width)]
    size = width // heads
    return [[(i, _lanes(n * width, head, size)) for i, n in parts] for head in range(heads)]


def _lanes(start: int, head: int, size: int) -> slice:
    return slice(start + head * size, start + (head + 1) * size)


def _allowed(keys_ref, queries: int, causal: bool) -> jax.Array:
    """bool [L or 1, M]: which keys (columns) a query (row) may attend to."""
    allowed_1xM = keys_ref[0] > 0
    if not causal:
        return allowed_1xM
    shape = queries, keys_ref.shape[2]
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return allowed_1xM & (rows >= columns)


def _weights(q_LxE, k_MxE, allowed) -> tuple[jax.Array, jax.Array]:
    """(exp(scores - max), float32 [L, M]; its row sums [L, 1])."""
    scores_LxM = _product(q_LxE, k_MxE, 1, 1) * q_LxE.shape[1] ** -0.5
    scores_LxM = jnp.where(allowed, scores_LxM, _MASKED)
    p_LxM = jnp.exp(scores_LxM - scores_LxM.max(axis=1, keepdims=True))
    return p_LxM, p_LxM.sum(axis=1, keepdims=True)


def _product(a, b, a_axis: int, b_axis: int) -> jax.Array:
    """Contracts two matrices over an axis of each; float32."""
    numbers = (((a_axis,), (b_axis,)), ((), ()))
    return jax.lax.dot_general(a, b, numbers, preferred_element_type=jnp.float32)
