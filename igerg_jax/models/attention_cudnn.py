"""Self-attention's products and softmax as cuDNN's flash attention, for NVIDIA GPUs.

JAX calls cuDNN's kernel (`jax.nn.dot_product_attention`), which never writes the scores to memory.
It is chosen where the program is lowered for CUDA, and where cuDNN can do it: in bfloat16 or
float16, with heads of at most 128 numbers, a multiple of 8, on Ampere (A100) or newer.

Letters as in `igerg_jax.models.attention`; heads lie side by side, D = H * E.
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
    heads: int, causal: bool, masked: bool, x_BxLx3D, keys_Bx1xL, implementation: str = "cudnn"
) -> jax.Array:
    """softmax(q k^T / sqrt(E)) v, [B, L, D].

    Args:
      causal: position l attends to keys up to l.
      masked: only to keys that are > 0; else `keys` is not read. Each example has such a key.
      x_BxLx3D: queries, keys and values side by side, each with its heads side by side.
      implementation: "xla" computes the same without cuDNN.
    """
    b, length, d3 = x_BxLx3D.shape
    odd = length % 2  # JAX refuses odd lengths where a gradient follows, so one position is added
    split = jnp.moveaxis(x_BxLx3D.reshape(b, length, 3, heads, -1), 2, 0)
    split = jnp.pad(split, ((0, 0), (0, 0), (0, odd), (0, 0), (0, 0)))
    mask = None
    if masked or (odd and not causal):  # nothing before it attends to the last position if causal
        keys_Bx1xL = keys_Bx1xL if masked else jnp.ones((b, 1, length))
        allowed_Bx1x1xM = jnp.pad(keys_Bx1xL, ((0, 0), (0, 0), (0, odd)))[:, None] > 0
        # cuDNN takes a mask as a bias of every pair.
        mask = jnp.broadcast_to(allowed_Bx1x1xM, (b, 1, length + odd, length + odd))
    y_BxLxHxE = jax.nn.dot_product_attention(
        *split, mask=mask, is_causal=causal, implementation=implementation
    )
    return y_BxLxHxE[:, :length].reshape(b, length, d3 // 3)
