"""Multi-head attention, with a key-value cache or as one fused kernel.

Letters are those of `igerg_jax.batch`, and here also: L query length, M key length, E = D / H; P =
the positions of a row that holds several sequences.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from igerg_jax.models import attention_kernel, initializers
from igerg_jax.models.arithmetic import product
from igerg_jax.models.partitioning import is_sharded, project_merged_heads
from igerg_jax.models.settings import LayerSettings


class KeyValue(NamedTuple):
    """A cache of keys and values; of a stack, with a layer axis first.

    Both are in the order of axes in which they are multiplied. In another, such as that of the
    projections, XLA's CPU compiler would transpose the whole cache in every step.
    """

    k_BxHxExM: jax.Array
    v_BxHxMxE: jax.Array

    @classmethod
    def of(cls, k_BxMxHxE: jax.Array, v_BxMxHxE: jax.Array) -> Self:
        """The cache of these, as they are projected."""
        return cls(k_BxMxHxE.transpose(0, 2, 3, 1), v_BxMxHxE.swapaxes(1, 2))

    def with_room(self, places: int) -> Self:
        """The cache with that many places more, at its end."""
        k, v = ([(0, 0)] * x.ndim for x in self)
        k[-1] = v[-2] = (0, places)
        return type(self)(jnp.pad(self.k_BxHxExM, k), jnp.pad(self.v_BxHxMxE, v))

    def with_new(self, new: Self, position: jax.Array) -> Self:
        """The cache with `new` written from `position` on."""
        write = jax.lax.dynamic_update_slice_in_dim
        return type(self)(
            write(self.k_BxHxExM, new.k_BxHxExM, position, axis=3),
            write(self.v_BxHxMxE, new.v_BxHxMxE, position, axis=2),
        )

    def attend(self, query_BxLxHxE: jax.Array, mask_Bx1xLxM: jax.Array) -> jax.Array:
        """[B, L, H, E]: what `jax.nn.dot_product_attention` computes.

        With its order of axes, five beams take twice as long on a CPU, their projections included.
        """
        scores_BxHxLxM = jnp.einsum(
            "blhe,bhem->bhlm", query_BxLxHxE, self.k_BxHxExM, preferred_element_type=jnp.float32
        )
        scores_BxHxLxM = scores_BxHxLxM / math.sqrt(query_BxLxHxE.shape[-1])
        masked_BxHxLxM = jnp.where(mask_Bx1xLxM, scores_BxHxLxM, jnp.finfo(jnp.float32).min)
        p_BxHxLxM = jax.nn.softmax(masked_BxHxLxM).astype(self.v_BxHxMxE.dtype)
        return jnp.einsum("bhlm,bhme->bhle", p_BxHxLxM, self.v_BxHxMxE).swapaxes(1, 2)


# Linen's DenseGeneral has the same parameters, but cannot initialise them with logical axes: it
# draws its kernel as a matrix, whose sharding constraint then has a rank too many
# (https://github.com/google/flax/issues/3676; still so in 0.12.8). The fused kernel also needs
# the parameters themselves.


class HeadProjection(nn.Module):
    """A linear map to every head, [B, L, D] to [B, L, H, E]."""

    heads: int
    width: int
    dtype: jnp.dtype

    def setup(self):
        shape = (self.width, self.heads, self.width // self.heads)
        kernel_init = initializers.xavier("embed", "heads", "head_dim", in_axis=0, out_axis=(1, 2))
        self.kernel_DxHxE = self.param("kernel", kernel_init, shape)
        self.bias_HxE = self.param("bias", initializers.zeros("heads", "head_dim"), shape[1:])

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        kernel_DxHxE, bias_HxE = self.cast()
        return product(x_BxLxD, kernel_DxHxE) + bias_HxE[None, None]

    def cast(self) -> tuple[jax.Array, jax.Array]:
        """(kernel [D, H, E], bias [H, E]) in `dtype`."""
        return self.kernel_DxHxE.astype(self.dtype), self.bias_HxE.astype(self.dtype)


class OutProjection(nn.Module):
    """The linear map back from every head, [B, L, H, E] or [B, L, D = H * E] to [B, L, D]."""

    heads: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, y: jax.Array) -> jax.Array:
        shape = (self.heads, self.width // self.heads, self.width)
        kernel_init = initializers.xavier("heads", "head_dim", "embed", in_axis=(0, 1), out_axis=2)
        kernel_HxExD = self.param("kernel", kernel_init, shape).astype(self.dtype)
        bias_D = self.param("bias", initializers.zeros("norm"), shape[2:]).astype(self.dtype)
        if y.ndim == 3:
            return project_merged_heads(y, kernel_HxExD) + bias_D[None, None]
        return product(y, kernel_HxExD, axes=2) + bias_D[None, None]


class Attention(nn.Module):
    """Multi-head attention with biases (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    There is no dropout on attention weights, so that fused kernels can be used. With
    `settings.attention` "fused", attention without a cache is one kernel, unless the mesh shards
    the heads; everything else is XLA's.
    """

    settings: LayerSettings

    @nn.compact
    def __call__(
        self,
        x_BxLxD: jax.Array,
        memory_BxMxD: jax.Array | None,
        mask_Bx1xLxM: jax.Array | None,
        *,
        cache: KeyValue | None = None,
        position: jax.Array | None = None,
        causal: bool = False,
        lengths: tuple[int, ...] | None = None,
    ) -> tuple[jax.Array, KeyValue | None]:
        """Attends from `x` to `memory`, or to `cache`.

        Args:
          x_BxLxD: queries.
          memory_BxMxD: what keys and values are projected from; None = `cache` holds all of them.
          mask_Bx1xLxM: bool, True = may attend; None = everywhere.
          cache: earlier keys and values. With `memory` and `position`, the new ones are written
            into it at `position`.
          position: int32 scalar, where in `cache` the first of `memory` belongs.
          causal: `mask` is the causal one; else it is the same for all queries.
          lengths: where a row of `x`, which is also `memory`, holds sequences side by side: theirs.
            Each attends to itself.

        Returns:
          ([B, L, D] in `dtype`, the keys and values that were attended to; None if fused or with
          `lengths`).

        Raises:
          ValueError: D does not divide into the heads.
        """
        width = x_BxLxD.shape[-1]
        if width % self.settings.heads:
            raise ValueError(f"width {width} does not divide into {self.settings.heads} heads")
        sizes = (self.settings.heads, width, self.settings.dtype)
        query, out = HeadProjection(*sizes, name="query"), OutProjection(*sizes, name="out")
        if memory_BxMxD is not None:
            key, value = HeadProjection(*sizes, name="key"), HeadProjection(*sizes, name="value")
            keys_BxM = None if mask_Bx1xLxM is None or causal else mask_Bx1xLxM[:, 0, 0]
            if cache is None and self.settings.attention == "fused" and not is_sharded("heads"):
                is_self_attention = memory_BxMxD is x_BxLxD

                def attend(x_BxLxD, keys_BxM):
                    if is_self_attention:
                        sources = (_project(x_BxLxD, query, key, value),)
                    else:
                        sources = _project(x_BxLxD, query), _project(memory_BxMxD, key, value)
                    return attention_kernel.attend(sources, keys_BxM, self.settings.heads, causal)

                y_BxLxD = _of_each(lengths, attend, x_BxLxD, keys_BxM)
                return out(checkpoint_name(y_BxLxD, "attention")), None
            new = key(memory_BxMxD), value(memory_BxMxD)
            if lengths is not None:
                y_BxLxHxE = _of_each(lengths, _attend, query(x_BxLxD), *new, keys_BxM)
                return out(y_BxLxHxE), None
            if cache is None:
                y_BxLxHxE = jax.nn.dot_product_attention(query(x_BxLxD), *new, mask=mask_Bx1xLxM)
                return out(y_BxLxHxE), KeyValue.of(*new)
            cache = cache.with_new(KeyValue.of(*new), position)
        return out(cache.attend(query(x_BxLxD), mask_Bx1xLxM)), cache


def split(x_BxPx: jax.Array, lengths: Sequence[int]) -> list[jax.Array]:
    """The sequences [B, L, ...] of these lengths that lie side by side in a row."""
    return jnp.split(x_BxPx, np.cumsum(lengths)[:-1], axis=1)


def _of_each(lengths: tuple[int, ...] | None, function: Callable, *rows_BxPx: jax.Array):
    """`function` of each sequence, side by side again; None as `lengths` = a row is one."""
    if lengths is None:
        return function(*rows_BxPx)
    parts = zip(*(split(x, lengths) for x in rows_BxPx), strict=True)
    return jnp.concatenate([function(*part) for part in parts], axis=1)


def _attend(q_BxLxHxE, k_BxLxHxE, v_BxLxHxE, keys_BxL) -> jax.Array:
    mask = keys_BxL[:, None, None]
    return jax.nn.dot_product_attention(q_BxLxHxE, k_BxLxHxE, v_BxLxHxE, mask=mask)


def _project(x_BxLxD: jax.Array, *projections: HeadProjection) -> jax.Array:
    """[B, L, n * D]: n projections side by side, as one product, for the fused kernel."""
    width = x_BxLxD.shape[-1]
    kernels, biases = zip(*(projection.cast() for projection in projections), strict=True)
    kernel_DxnD = jnp.concatenate([k.reshape(width, width) for k in kernels], axis=1)
    bias_nD = jnp.concatenate([b.reshape(width) for b in biases])
    # This name is one that rematerialisation keeps; see `settings.REMAT_POLICIES`.
    return checkpoint_name(x_BxLxD @ kernel_DxnD + bias_nD[None, None], "attention")
