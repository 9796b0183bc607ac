"""Attention's products and softmax as cuDNN's flash attention, for NVIDIA GPUs.

JAX calls cuDNN's kernel (`jax.nn.dot_product_attention`), which never writes the scores to memory.
It is chosen where the program is lowered for CUDA, and where cuDNN can do it: in bfloat16 or
float16, with heads of at most 128 numbers, a multiple of 8, on Ampere (A100) or newer.

Letters as in `igerg_jax.models.attention`.
"""

import importlib.util

import jax
import jax.numpy as jnp

_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def is_installed() -> bool:
    """Whether JAX's CUDA plugin is: without it, JAX cannot even trace a call of cuDNN."""
    return any(importlib.util.find_spec(plugin) is not None for plugin in _PLUGINS)


def supports(dtype: jnp.dtype, head_width: int) -> bool:
    """Whether cuDNN has a kernel for these heads. (On Hopper and newer, up to 256 would do.)"""
    return dtype in (jnp.bfloat16, jnp.float16) and head_width % 8 == 0 and head_width <= 128


def attend(
    q_BxLxHxE: jax.Array,
    k_BxMxHxE: jax.Array,
    v_BxMxHxE: jax.Array,
    keys_BxM: jax.Array | None,
    causal: bool,
    implementation: str = "cudnn",
) -> jax.Array:
    """softmax(q k^T / sqrt(E)) v, [B, L, H, E].

    Args:
      keys_BxM: bool, which keys may be attended to, at least one of each row; None = all.
      causal: position l attends to keys up to l.
      implementation: "xla" computes the same without cuDNN.
    """
    b, length = q_BxLxHxE.shape[:2]
    # JAX refuses odd lengths where a gradient follows, so one position is added.
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
        for x in (q_BxLxHxE, k_BxMxHxE, v_BxMxHxE)
    )
    keys, odd = k_BxMxHxE.shape[1], k_BxMxHxE.shape[1] % 2
    mask = None
    if keys_BxM is not None or (odd and not causal):  # if causal, nothing attends to what is added
        keys_BxM = jnp.ones((b, keys), bool) if keys_BxM is None else keys_BxM
        allowed_Bx1x1xM = jnp.pad(keys_BxM, ((0, 0), (0, odd)))[:, None, None]
        # cuDNN takes a mask as a bias of every pair.
        mask = jnp.broadcast_to(allowed_Bx1x1xM, (b, 1, q.shape[1], k.shape[1]))
    y_BxLxHxE = jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=causal, implementation=implementation
    )
    return y_BxLxHxE[:, :length]
