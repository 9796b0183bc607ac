"""Transformer layers, pure functions of parameters and arrays.

Letters are those of `igerg_jax.batch`, and here also: L query length, M key length, E = D / H.
Dropout is on exactly when a "dropout" key is passed to `apply`: there is no training flag.
Parameters are float32 and carry logical axis names; activations have `dtype`; layer norms,
softmaxes and everything after the last layer are float32.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from igerg_jax.models import attention
from igerg_jax.models.partitioning import batch_shards

_POLICIES = jax.checkpoint_policies
_KERNEL = _POLICIES.save_only_these_names("attention")  # what the kernel reads and makes

# What the backward pass may keep instead of computing it again.
REMAT_POLICIES = {
    "none": None,  # keep everything
    # Keep products with weights, and the fused kernel's.
    "dots": _POLICIES.save_from_both_policies(_POLICIES.dots_with_no_batch_dims_saveable, _KERNEL),
    # And attention's products without the kernel.
    "all_dots": _POLICIES.save_from_both_policies(_POLICIES.dots_saveable, _KERNEL),
    "full": _POLICIES.nothing_saveable,  # keep a layer's input alone
}

# Exact, as in BART and Hugging Face's ViT; or by tanh, as in big_vision and SigLIP.
GELUS = {
    "exact": functools.partial(nn.gelu, approximate=False),
    "tanh": functools.partial(nn.gelu, approximate=True),
}
ATTENTION = ("xla", "fused")  # how self-attention is computed; see igerg_jax.models.attention
ACTIVATION_AXES = ("batch", None, None)
BART_EPSILON = 1e-5  # of layer norms; ViT's is 1e-6


class Named(nn.LogicallyPartitioned):
    """A parameter with its logical axes, and no more than that.

    Linen's own box also constrains the value's sharding whenever it is opened under a mesh. That
    breaks on DenseGeneral, which opens it with a flattened shape; and the sharding of parameters
    is already said, once, by the step's `in_shardings`.
    """

    def unbox(self, apply_constraint: bool = True):
        return self.value


def named(init, *axes: str | None):
    """An initializer whose parameter carries the logical `axes`, one a dimension."""
    return lambda *args, **kwargs: Named(init(*args, **kwargs), axes)


def normal_init(*axes: str | None):
    """BERT's and BART's initialisation of embeddings: a normal of standard deviation 0.02."""
    return named(nn.initializers.normal(0.02), *axes)


def kernel_init(*axes: str | None):
    """Xavier's for weight matrices, as in ViT's code.

    A fixed 0.02, as BART has it, suits a width of 768; a model 64 wide then starts so faint that
    it needs twice the steps to learn the same.
    """
    return named(nn.initializers.xavier_uniform(), *axes)


def layer_norm(name: str, epsilon: float = BART_EPSILON) -> nn.LayerNorm:
    """Layer norm that computes, and returns, float32."""
    return nn.LayerNorm(
        epsilon=epsilon,
        dtype=jnp.float32,
        scale_init=named(nn.initializers.ones, "norm"),
        bias_init=named(nn.initializers.zeros, "norm"),
        name=name,
    )


def dropout(module: nn.Module, rate: float, x_BxLxD: jax.Array) -> jax.Array:
    """Dropout where `module` was given a "dropout" key, else `x`."""
    if not rate or not module.has_rng("dropout"):
        return x_BxLxD
    kept = _random_mask(module.make_rng("dropout"), 1.0 - rate, x_BxLxD.shape)
    return jnp.where(kept, x_BxLxD / (1.0 - rate), jnp.zeros_like(x_BxLxD))


def _random_mask(key: jax.Array, p: float, shape: tuple[int, ...]) -> jax.Array:
    """bool, True with probability `p`; the first axis is the batch.

    XLA divides threefry's bits over devices, and they stay the same. It does not divide those of
    the hardware generators (rbg): every device would make the whole batch's. There, each device
    makes its own from a key of its own, which depends on the mesh.
    """
    rows, shards = batch_shards()
    impl = jax.random.key_impl(key)
    if "threefry" in str(impl) or shards == 1 or shape[0] % shards:
        return jax.random.bernoulli(key, p, shape)

    def own(data):
        key_here = jax.random.wrap_key_data(data, impl=impl)
        key_here = jax.random.fold_in(key_here, jax.lax.axis_index(rows))
        return jax.random.bernoulli(key_here, p, (shape[0] // shards, *shape[1:]))

    spec = PartitionSpec(rows, *[None] * (len(shape) - 1))
    return jax.shard_map(own, in_specs=PartitionSpec(), out_specs=spec, check_vma=False)(
        jax.random.key_data(key)
    )


class KeyValue(NamedTuple):
    """Keys and values, [B, M, H, E] each; with a leading layer axis in a whole cache."""

    k_BxMxHxE: jax.Array
    v_BxMxHxE: jax.Array


def _as_matrix(inputs: int, *axes: str):
    """Xavier's initializer of the matrix from the first `inputs` axes to the others, which a
    kernel with its heads apart is."""
    xavier = nn.initializers.xavier_uniform()

    def init(key, shape, dtype=jnp.float32):
        matrix = (math.prod(shape[:inputs]), math.prod(shape[inputs:]))
        return xavier(key, matrix, dtype).reshape(shape)

    return named(init, *axes)


class HeadProjection(nn.Module):
    """A linear map to every head. Its parameters are those of `nn.DenseGeneral`."""

    heads: int
    width: int
    dtype: jnp.dtype

    def setup(self):
        shape = (self.width, self.heads, self.width // self.heads)
        self.kernel = self.param("kernel", _as_matrix(1, "embed", "heads", "head_dim"), shape)
        zeros = named(nn.initializers.zeros, "heads", "head_dim")
        self.bias = self.param("bias", zeros, shape[1:])

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """Maps [B, L, D] to [B, L, H, E]."""
        y_BxLxHxE = jnp.einsum("bld,dhe->blhe", x_BxLxD, self.kernel.astype(self.dtype))
        return y_BxLxHxE + self.bias.astype(self.dtype)[None, None]

    def flat(self) -> tuple[jax.Array, jax.Array]:
        """(matrix [D, H * E], bias [H * E]) in `dtype`."""
        return (
            self.kernel.astype(self.dtype).reshape(self.width, -1),
            self.bias.astype(self.dtype).reshape(-1),
        )


class OutProjection(nn.Module):
    """The linear map back from every head. Its parameters are those of `nn.DenseGeneral`."""

    heads: int
    width: int
    dtype: jnp.dtype

    def setup(self):
        shape = (self.heads, self.width // self.heads, self.width)
        self.kernel = self.param("kernel", _as_matrix(2, "heads", "head_dim", "embed"), shape)
        self.bias = self.param("bias", named(nn.initializers.zeros, "norm"), shape[2:])

    def __call__(self, y_BxLxHxE: jax.Array) -> jax.Array:
        """Maps [B, L, H, E] to [B, L, D]."""
        y_BxLxD = jnp.einsum("blhe,hed->bld", y_BxLxHxE, self.kernel.astype(self.dtype))
        return y_BxLxD + self.bias.astype(self.dtype)[None, None]

    def flat(self, y_BxLxD: jax.Array) -> jax.Array:
        """The same of heads that lie side by side: one product of matrices, as the kernel's
        result lies in memory. XLA's TPU compiler turns it around otherwise."""
        kernel_DxD = self.kernel.astype(self.dtype).reshape(self.width, self.width)
        return y_BxLxD @ kernel_DxD + self.bias.astype(self.dtype)[None, None]


class Attention(nn.Module):
    """Multi-head attention with biases (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    There is no dropout on attention weights, so that fused kernels can be used.

    Attributes:
      kernel: a key of `ATTENTION`. "fused" holds for self-attention without a cache, over a mesh
        that does not divide the heads; everything else is XLA's.
    """

    heads: int
    dtype: jnp.dtype
    kernel: str

    def setup(self):
        if self.heads <= 0:
            raise ValueError(f"attention needs at least one head, got {self.heads}")
        if self.kernel not in ATTENTION:
            raise ValueError(f"attention '{self.kernel}' is not one of {', '.join(ATTENTION)}")

    def _projection(self, name: str, width: int) -> HeadProjection:
        return HeadProjection(self.heads, width, self.dtype, name=name)

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
    ) -> tuple[jax.Array, KeyValue | None]:
        """Attends from `x` to `memory`, or to `cache`.

        Args:
          x_BxLxD: queries.
          memory_BxMxD: what keys and values are made of; None = `cache` holds all of them.
          mask_Bx1xLxM: bool, True = may attend; None = everywhere.
          cache: keys and values made earlier. With `memory` and `position`, the new keys are
            written into it at `position`.
          position: int32 scalar, where in `cache` the first of `memory` belongs.
          causal: `mask` is the causal one; else it is the same for all queries.

        Returns:
          ([B, L, D] in `dtype`, the keys and values that were attended to; None if fused).
        """
        width = x_BxLxD.shape[-1]
        if width % self.heads:
            raise ValueError(f"width {width} does not divide into {self.heads} heads")
        query = self._projection("query", width)
        out = OutProjection(self.heads, width, self.dtype, name="out")
        if memory_BxMxD is not None:
            key, value = self._projection("key", width), self._projection("value", width)
        if self._fuses(x_BxLxD, memory_BxMxD, cache):
            flat = [projection.flat() for projection in (query, key, value)]
            kernel_Dx3D, bias_3D = (
                jnp.concatenate(parts, axis=-1) for parts in zip(*flat, strict=True)
            )
            x_BxLx3D = checkpoint_name(x_BxLxD @ kernel_Dx3D + bias_3D[None, None], "attention")
            keys_BxL = None if mask_Bx1xLxM is None or causal else mask_Bx1xLxM[:, 0, 0]
            y_BxLxD = attention.attend(x_BxLx3D, keys_BxL, self.heads, causal)
            y_BxLxD = checkpoint_name(y_BxLxD, "attention")
            return out.flat(y_BxLxD), None
        q_BxLxHxE = query(x_BxLxD)
        if memory_BxMxD is None:
            key_value = cache
        else:
            key_value = KeyValue(key(memory_BxMxD), value(memory_BxMxD))
            if cache is not None:
                key_value = KeyValue(
                    *(
                        jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=1)
                        for old, new in zip(cache, key_value, strict=True)
                    )
                )
        y_BxLxHxE = jax.nn.dot_product_attention(q_BxLxHxE, *key_value, mask=mask_Bx1xLxM)
        return out(y_BxLxHxE), key_value

    def _fuses(self, x_BxLxD, memory_BxMxD, cache) -> bool:
        mesh = jax.sharding.get_abstract_mesh()
        whole_heads = mesh.empty or mesh.shape.get("tensor", 1) == 1
        is_self = memory_BxMxD is x_BxLxD and cache is None
        return self.kernel == "fused" and is_self and whole_heads


class Mlp(nn.Module):
    """Dense, GELU (a key of `GELUS`), dense."""

    width: int
    dtype: jnp.dtype
    gelu: str

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        if self.gelu not in GELUS:
            raise ValueError(f"gelu '{self.gelu}' is not one of {', '.join(GELUS)}")
        h = nn.Dense(
            self.width,
            dtype=self.dtype,
            kernel_init=kernel_init("embed", "mlp"),
            bias_init=named(nn.initializers.zeros, "mlp"),
            name="in",
        )(x_BxLxD)
        return nn.Dense(
            x_BxLxD.shape[-1],
            dtype=self.dtype,
            kernel_init=kernel_init("mlp", "embed"),
            bias_init=named(nn.initializers.zeros, "norm"),
            name="out",
        )(GELUS[self.gelu](h))


class Residual(nn.Module):
    """x + f(norm(x)) with `norm_first`, else norm(x + f(x)) (post-LN, as BART)."""

    norm_first: bool
    dropout_rate: float
    dtype: jnp.dtype
    epsilon: float

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, inner):
        """Returns (the sum, what else `inner` returned); `inner` maps [B,L,D] to (y, extra)."""
        norm = layer_norm("norm", self.epsilon)
        y_BxLxD, extra = inner(norm(x_BxLxD).astype(self.dtype) if self.norm_first else x_BxLxD)
        x_BxLxD = x_BxLxD + dropout(self, self.dropout_rate, y_BxLxD)
        if not self.norm_first:
            x_BxLxD = norm(x_BxLxD).astype(self.dtype)
        return nn.with_logical_constraint(x_BxLxD, ACTIVATION_AXES), extra


class EncoderLayer(nn.Module):
    """Self-attention and MLP."""

    heads: int
    mlp_width: int
    norm_first: bool
    dropout_rate: float
    dtype: jnp.dtype
    epsilon: float
    attention: str
    gelu: str

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, mask_Bx1x1xL: jax.Array | None):
        residual = (self.norm_first, self.dropout_rate, self.dtype, self.epsilon)
        attend = Attention(self.heads, self.dtype, self.attention, name="self_attention")
        mlp = Mlp(self.mlp_width, self.dtype, self.gelu, name="mlp")
        x_BxLxD, _ = Residual(*residual, name="self_attention_residual")(
            x_BxLxD, lambda h: attend(h, h, mask_Bx1x1xL)
        )
        x_BxLxD, _ = Residual(*residual, name="mlp_residual")(x_BxLxD, lambda h: (mlp(h), None))
        return x_BxLxD, None


class DecoderCache(NamedTuple):
    """What a decoder layer remembers: its own past, and its view of the encoder's output."""

    self_attention: KeyValue
    cross_attention: KeyValue


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, MLP."""

    heads: int
    mlp_width: int
    norm_first: bool
    dropout_rate: float
    dtype: jnp.dtype
    epsilon: float
    attention: str
    keep_cache: bool

    @nn.compact
    def __call__(
        self,
        x_BxTxD: jax.Array,
        cache: DecoderCache | None,
        encoded_BxLxD: jax.Array | None,
        self_mask: jax.Array,
        cross_mask: jax.Array,
        position: jax.Array | None,
    ):
        """Returns ([B, T, D], the layer's `DecoderCache`, or None unless `keep_cache`).

        Without `cache`: all of T at once. With it: the T tokens from `position` on; then
        `encoded` is not read, its keys and values are in the cache.
        """
        residual = (self.norm_first, self.dropout_rate, self.dtype, self.epsilon)
        kernel = "xla" if self.keep_cache else self.attention
        self_attention = Attention(self.heads, self.dtype, kernel, name="self_attention")
        cross_attention = Attention(self.heads, self.dtype, "xla", name="cross_attention")
        mlp = Mlp(self.mlp_width, self.dtype, "exact", name="mlp")
        past, view = (None, None) if cache is None else cache
        x_BxTxD, past = Residual(*residual, name="self_attention_residual")(
            x_BxTxD,
            lambda h: self_attention(
                h, h, self_mask, cache=past, position=position, causal=cache is None
            ),
        )
        x_BxTxD, view = Residual(*residual, name="cross_attention_residual")(
            x_BxTxD, lambda h: cross_attention(h, encoded_BxLxD, cross_mask, cache=view)
        )
        x_BxTxD, _ = Residual(*residual, name="mlp_residual")(x_BxTxD, lambda h: (mlp(h), None))
        return x_BxTxD, DecoderCache(past, view) if self.keep_cache else None


def stacked(
    layer: type[nn.Module], layers: int, remat: str, scan: bool, scanned_in: int, broadcast: int
):
    """`layer`, `layers` times over: parameters get a leading layer axis either way.

    Args:
      layer: a module whose call maps (x, scanned inputs..., broadcast inputs...) to (x, output).
      layers: how many.
      remat: a key of `REMAT_POLICIES`.
      scan: True = one loop, compiled once; False = unrolled, with the same parameters.
      scanned_in: how many inputs after x carry a leading layer axis.
      broadcast: how many inputs after those are the same for every layer.

    Raises:
      ValueError: `remat` is not a policy.
    """
    if remat not in REMAT_POLICIES:
        raise ValueError(f"remat '{remat}' is not one of {', '.join(REMAT_POLICIES)}")
    if remat != "none":
        layer = nn.remat(layer, policy=REMAT_POLICIES[remat], prevent_cse=not scan)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0,) * scanned_in + (nn.broadcast,) * broadcast,
        length=layers,
        unroll=1 if scan else layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
