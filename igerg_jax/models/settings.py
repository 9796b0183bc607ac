"""Settings of layers and stacks: frozen and hashable, so that a Linen module takes one field.

`igerg_jax.checks` has refused values that cannot work: see `CONSTRAINTS` and `check_heads`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.constraints import Choice, Range
from igerg_jax.errors import UserError
from igerg_jax.models import arithmetic

# Exact, as in BART and Hugging Face's ViT; or the tanh approximation, as in big_vision and SigLIP.
GELUS = {
    "exact": arithmetic.gelu,
    "tanh": functools.partial(nn.gelu, approximate=True),
}
ATTENTION = ("xla", "fused")  # how attention is computed; see `models.attention`
BART_EPSILON = 1e-5  # of layer norms; ViT's is 1e-6

_POLICIES = jax.checkpoint_policies
# The fused kernel's input and output; and layer norms' means and deviations, which are small, so
# that normalising again is elementwise and becomes part of what reads the result.
_NAMED = _POLICIES.save_only_these_names("attention", "moments")

# What the backward pass may keep instead of recomputing it.
REMAT_POLICIES = {
    "none": None,  # keep everything
    # Keep products with weights, and what is named.
    "dots": _POLICIES.save_from_both_policies(_POLICIES.dots_with_no_batch_dims_saveable, _NAMED),
    # Also attention's products where XLA computes them.
    "all_dots": _POLICIES.save_from_both_policies(_POLICIES.dots_saveable, _NAMED),
    "full": _POLICIES.nothing_saveable,  # keep only a layer's input
}

# The numbers under `config.model`. A tower of `igerg_jax.models.vision` reads some of `vision`'s.
CONSTRAINTS = (
    *(Range(f"vision.{key}", at_least=1) for key in ("patch_size", "tokens_per_image")),
    Choice("vision.gelu", tuple(GELUS)),
    *(Choice(f"{part}.attention", ATTENTION) for part in ("vision", "text")),
    *(Choice(f"{part}.remat", tuple(REMAT_POLICIES)) for part in ("vision", "text")),
    Range("vision.norm_epsilon", above=0),
    *(
        Range(f"{part}.{key}", at_least=1)
        for part in ("vision", "text", "judge")
        for key in ("width", "heads", "mlp_width")
    ),
    *(
        Range(key, at_least=1)
        for key in ("vision.layers", "text.encoder_layers", "text.decoder_layers", "judge.layers")
    ),
    *(Range(f"{part}.dropout_rate", at_least=0, below=1) for part in ("vision", "text")),
    Range("text.max_positions", at_least=1),
    Range("emotion_scale", at_least=0),
    Range("contrastive_width", at_least=1),
    Range("vocab_chunk_tokens", at_least=1),
)

T = TypeVar("T")


def select(settings: type[T], keys: Mapping[str, Any], **computed: Any) -> T:
    """An instance of a dataclass: each field without a default is taken from `computed`, or else
    from the key of its name. A list, as JSON has for a tuple, becomes one: settings are hashed."""
    fields = dataclasses.fields(settings)
    names = [field.name for field in fields if field.init and field.default is dataclasses.MISSING]
    values = {name: (computed if name in computed else keys)[name] for name in names}
    return settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def check_pixels(feature_dim: int) -> None:
    """Raises UserError if the data are precomputed vectors of `feature_dim` entries (0 = none)."""
    if feature_dim:
        raise UserError(
            f"data.feature_dim={feature_dim} needs model.vision.kind='features', and other towers "
            "read images: set both or none"
        )


def check_one_token(kind: str, tokens_per_image: int) -> None:
    """Raises UserError unless one visual token per image is asked for."""
    if tokens_per_image != 1:
        raise UserError(
            f"model.vision.kind '{kind}' makes 1 token per image; "
            f"set model.vision.tokens_per_image=1, not {tokens_per_image}"
        )


def check_heads(part: str, width: int, heads: int) -> None:
    """Raises UserError unless the width of `model.<part>` splits into heads of equal size."""
    if heads < 1 or width % heads:
        raise UserError(
            f"model.{part}.width={width} does not divide into heads={heads} (model.{part}.heads)"
        )


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """One Transformer layer. Its width is its input's.

    Attributes:
      norm_first: layer norm before each block (pre-LN), else after its residual sum, as BART.
      gelu: a key of `GELUS`.
      attention: one of `ATTENTION`.
      dtype: of activations.
    """

    heads: int
    mlp_width: int
    dropout_rate: float
    norm_first: bool
    norm_epsilon: float
    gelu: str
    attention: str
    dtype: jnp.dtype


@dataclasses.dataclass(frozen=True)
class StackSettings(LayerSettings):
    """Layers on top of each other.

    Attributes:
      scan_layers: one loop, compiled once; else unrolled, with the same parameters.
      remat: a key of `REMAT_POLICIES`.
    """

    layers: int
    scan_layers: bool
    remat: str


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """The text side: a BART-like encoder and decoder of one width."""

    width: int
    max_positions: int
    encoder: StackSettings
    decoder: StackSettings


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """The judge of a text's emotion; see `igerg_jax.models.heads`."""

    width: int
    max_positions: int
    vocab_size: int
    stack: StackSettings
