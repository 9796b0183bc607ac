"""Transformer layers, pure functions of parameters and arrays, and the stacks of them.

Letters are those of `igerg_jax.batch`. Dropout is on exactly when a "dropout" key is passed to
`apply`: there is no training flag. Parameters are float32 and carry logical axis names.
Activations, the output of a stack among them, have `settings.dtype`, and so have the products of
matrices; layer norms and attention's softmax compute in float32, and what they return is cast back.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.models import arithmetic, initializers
from igerg_jax.models.attention import Attention, KeyValue
from igerg_jax.models.partitioning import bernoulli, shard_activations
from igerg_jax.models.settings import (
    BART_EPSILON,
    GELUS,
    REMAT_POLICIES,
    LayerSettings,
    StackSettings,
)


class LayerNorm(nn.Module):
    """Layer norm that computes, and returns, float32."""

    epsilon: float

    @nn.compact
    def __call__(self, x_xD: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D]."""
        shape = x_xD.shape[-1:]
        scale_D = self.param("scale", initializers.ones("norm"), shape)
        bias_D = self.param("bias", initializers.zeros("norm"), shape)
        return arithmetic.normalise(x_xD, scale_D, bias_D, self.epsilon)


def layer_norm(name: str | None, epsilon: float = BART_EPSILON) -> LayerNorm:
    """A `LayerNorm`, by default with BART's epsilon."""
    return LayerNorm(epsilon, name=name)


def dense(width: int, dtype: jnp.dtype, name: str | None, in_axis: str, out_axis: str) -> nn.Dense:
    """A dense layer between two logical axes; a bias over "embed" is replicated."""
    return nn.Dense(
        width,
        dtype=dtype,
        kernel_init=initializers.xavier(in_axis, out_axis),
        bias_init=initializers.zeros("norm" if out_axis == "embed" else out_axis),
        dot_general=lambda x, kernel, *_, **__: arithmetic.product(x, kernel),
        name=name,
    )


def dropout(module: nn.Module, rate: float, x_BxLxD: jax.Array) -> jax.Array:
    """Dropout if `module` was given a "dropout" key, else `x`."""
    if not rate or not module.has_rng("dropout"):
        return x_BxLxD
    kept = bernoulli(module.make_rng("dropout"), 1.0 - rate, x_BxLxD.shape)
    return jnp.where(kept, x_BxLxD / (1.0 - rate), jnp.zeros_like(x_BxLxD))


class Mlp(nn.Module):
    """Dense, GELU, dense."""

    settings: LayerSettings

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        s = self.settings
        h_BxLxW = dense(s.mlp_width, s.dtype, "in", "embed", "mlp")(x_BxLxD)
        return dense(x_BxLxD.shape[-1], s.dtype, "out", "mlp", "embed")(GELUS[s.gelu](h_BxLxW))


class Residual(nn.Module):
    """x + f(norm(x)) with `norm_first`, else norm(x + f(x)) (post-LN, as BART)."""

    settings: LayerSettings

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, block):
        """Returns (the sum, what else `block` returned); `block` maps [B, L, D] to (y, extra)."""
        s = self.settings
        norm = layer_norm("norm", s.norm_epsilon)
        y_BxLxD, extra = block(norm(x_BxLxD).astype(s.dtype) if s.norm_first else x_BxLxD)
        x_BxLxD = x_BxLxD + dropout(self, s.dropout_rate, y_BxLxD)
        if not s.norm_first:
            x_BxLxD = norm(x_BxLxD).astype(s.dtype)
        return shard_activations(x_BxLxD), extra


class EncoderLayer(nn.Module):
    """Self-attention and MLP.

    Attributes:
      lengths: of the sequences side by side in a row of its input; None = a row is one.
    """

    settings: LayerSettings
    lengths: tuple[int, ...] | None

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, mask_Bx1x1xL: jax.Array | None):
        """Returns ([B, L, D], None); None as `mask` = every position may be attended to."""
        s = self.settings
        attend, mlp = Attention(s, name="self_attention"), Mlp(s, name="mlp")
        x_BxLxD, _ = Residual(s, name="self_attention_residual")(
            x_BxLxD, lambda h: attend(h, h, mask_Bx1x1xL, lengths=self.lengths)
        )
        x_BxLxD, _ = Residual(s, name="mlp_residual")(x_BxLxD, lambda h: (mlp(h), None))
        return x_BxLxD, None


class DecoderCache(NamedTuple):
    """A decoder layer's keys and values: of its own past, and of the encoder's output."""

    self_attention: KeyValue
    cross_attention: KeyValue


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, MLP."""

    settings: LayerSettings
    keep_cache: bool

    @nn.compact
    def __call__(
        self,
        x_BxTxD: jax.Array,
        cache: DecoderCache | None,
        encoded_BxLxD: jax.Array | None,
        self_mask: jax.Array,
        cross_mask: jax.Array,
        place: jax.Array | None,
    ):
        """Returns ([B, T, D], the layer's `DecoderCache`, or None unless `keep_cache`).

        Without `cache`: all of T at once. With it: what `Decoder` says; `encoded` is then not read,
        since the cache holds its keys and values.

        Args:
          encoded_BxLxD: x may have several rows to each of its rows, side by side. They attend to
            it as one long query, so that its keys and values are computed once.
          place: int32 scalar, where in the cache the first of x belongs.
        """
        s = self.settings
        of_attention = dataclasses.replace(s, attention="xla") if self.keep_cache else s
        self_attention = Attention(of_attention, name="self_attention")
        cross_attention = Attention(of_attention, name="cross_attention")
        mlp = Mlp(s, name="mlp")
        past, encoded = (None, None) if cache is None else cache
        x_BxTxD, past = Residual(s, name="self_attention_residual")(
            x_BxTxD,
            lambda h: self_attention(
                h, h, self_mask, cache=past, position=place, causal=cache is None
            ),
        )
        rows, width = cross_mask.shape[0], x_BxTxD.shape[-1]

        def attend_to_encoder(h_BxTxD):
            query = h_BxTxD.reshape(rows, -1, width)
            y, kept = cross_attention(query, encoded_BxLxD, cross_mask, cache=encoded)
            return y.reshape(h_BxTxD.shape), kept

        x_BxTxD, encoded = Residual(s, name="cross_attention_residual")(x_BxTxD, attend_to_encoder)
        x_BxTxD, _ = Residual(s, name="mlp_residual")(x_BxTxD, lambda h: (mlp(h), None))
        return x_BxTxD, DecoderCache(past, encoded) if self.keep_cache else None


class DecodingStep(NamedTuple):
    """One token for each of K responses to every row, all at the same position.

    The K responses of a row share a cache: the token of response j at position t lies at t * K + j.
    So a beam that continues another only remembers where its past lies, and nothing is moved.
    """

    position: jax.Array  # int32 scalar
    mask_Bx1xKxM: jax.Array  # bool: which of the M = T * K places each response continues

    @classmethod
    def of_paths(cls, position: jax.Array, paths_BxKxT: jax.Array) -> Self:
        """A step of responses whose token at position t is that of response `paths[:, :, t]`."""
        rows, beams, positions = paths_BxKxT.shape
        mine_BxKxTxK = paths_BxKxT[..., None] == jnp.arange(beams)[None, None, None]
        decoded_1x1xTx1 = jnp.arange(positions)[None, None, :, None] <= position
        return cls(position, (mine_BxKxTxK & decoded_1x1xTx1).reshape(rows, 1, beams, -1))


def stack(
    layer: type[nn.Module], settings: StackSettings, *fields, scanned: int, broadcast: int
) -> nn.Module:
    """`layer(settings, *fields)`, `settings.layers` times over; the module is named "layers".

    Parameters get a leading layer axis either way.

    Args:
      layer: a module whose call maps (x, scanned inputs..., broadcast inputs...) to (x, output).
      scanned: how many inputs after x carry a leading layer axis.
      broadcast: how many inputs after those are the same for every layer.
    """
    if settings.remat != "none":
        policy = REMAT_POLICIES[settings.remat]
        layer = nn.remat(layer, policy=policy, prevent_cse=not settings.scan_layers)
    scan = nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0,) * scanned + (nn.broadcast,) * broadcast,
        length=settings.layers,
        unroll=1 if settings.scan_layers else settings.layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scan(settings, *fields, name="layers")


class Encoder(nn.Module):
    """A stack of encoder layers over an embedded sequence (BART's with norm_first=False)."""

    settings: StackSettings

    @nn.compact
    def __call__(
        self, x_BxLxD: jax.Array, mask_BxL: jax.Array, lengths: tuple[int, ...] | None = None
    ) -> jax.Array:
        """Maps [B, L, D] to [B, L, D]; nothing attends to where `mask` (bool) is False.

        Args:
          lengths: of the sequences that lie side by side in a row; None = it is one.
        """
        layers = stack(EncoderLayer, self.settings, lengths, scanned=0, broadcast=1)
        x_BxLxD, _ = layers(x_BxLxD, mask_BxL[:, None, None, :])
        return _last_norm(self.settings, x_BxLxD)


class Decoder(nn.Module):
    """A stack of decoder layers (BART's with norm_first=False)."""

    settings: StackSettings

    @nn.compact
    def __call__(
        self,
        x_BxTxD: jax.Array,
        encoded_BxLxD: jax.Array | None,
        encoded_mask_BxL: jax.Array,
        cache: DecoderCache | list[DecoderCache] | None,
        step: DecodingStep | None,
        keep_cache: bool,
    ) -> tuple[jax.Array, DecoderCache | list[DecoderCache] | None]:
        """Decodes all of T at once, or, with a cache, the tokens of one step.

        Args:
          cache: every layer's, with a leading layer axis; or one for each layer, in a list. The
            parameters are then in such a list, too: see `by_layer`.

        Returns:
          ([B, T, D], every layer's cache as it was given, or None). Without `keep_cache` there is
          none, so that training does not carry it.
        """
        length = x_BxTxD.shape[1]
        if step is None:
            place, self_mask = None, jnp.tri(length, dtype=bool)[None, None]
        else:
            place, self_mask = step.position * length, step.mask_Bx1xKxM
        masks = self_mask, encoded_mask_BxL[:, None, None, :]
        if isinstance(cache, list):
            of_layers = []
            for i, of_layer in enumerate(cache):
                layer = DecoderLayer(self.settings, keep_cache, name=f"layer_{i}")
                x_BxTxD, of_layer = layer(x_BxTxD, of_layer, encoded_BxLxD, *masks, place)
                of_layers.append(of_layer)
            return _last_norm(self.settings, x_BxTxD), of_layers
        layers = stack(DecoderLayer, self.settings, keep_cache, scanned=1, broadcast=4)
        x_BxTxD, cache = layers(x_BxTxD, cache, encoded_BxLxD, *masks, place)
        return _last_norm(self.settings, x_BxTxD), cache


def by_layer(tree: Any) -> list[Any]:
    """What each layer has of a tree whose leaves have a leading layer axis.

    For decoding on a CPU, where XLA would copy each layer's part of the parameters and of the cache
    in every step: within a loop it neither reads a product's operand where it lies in a larger
    array, nor takes the slice out of the loop.
    """
    layers = jax.tree.leaves(tree)[0].shape[0]
    return [jax.tree.map(lambda leaf: leaf[i], tree) for i in range(layers)]  # noqa: B023


def parameters_by_layer(params: Mapping[str, Any]) -> dict[str, Any]:
    """A `Decoder`'s parameters for a cache that is a list."""
    others = {name: leaf for name, leaf in params.items() if name != "layers"}
    return others | {f"layer_{i}": layer for i, layer in enumerate(by_layer(params["layers"]))}


def _last_norm(settings: StackSettings, x_BxLxD: jax.Array) -> jax.Array:
    """With `norm_first` the last layer's sum is not normalised yet."""
    if not settings.norm_first:
        return x_BxLxD
    return layer_norm("norm")(x_BxLxD).astype(settings.dtype)
