"""Tables that map the tensors of a source of weights to our parameters.

PyTorch stores a dense layer as [out, in] and a convolution as [out, in, height, width]; we store
[in, out] and [height, width, in, out], and attention's matrices split by heads: [D, H, E] to the
heads, [H, E, D] from them. Layers of a stack share one array with a leading axis.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]
Row = tuple[str, str, str]  # their name, our parameter, a key of TRANSFORMS


@dataclasses.dataclass(frozen=True)
class Table:
    """The table of one source. `*` is a layer's number in rows, and anything in other patterns.

    Attributes:
      name: the source's, for messages.
      part: "text" or "vision".
      download: a suggestion of what to download, for messages.
      marker: a tensor that only this source has, which identifies files without a config.json.
      prefixes: optional prefixes of their names, which `rows` omit.
      rows: every tensor that is imported.
      settings: (config.json or {}, their names) -> {key under config.model: the value that
        computes what this model does}.
      refusals: (config.json or {}) -> what this model does that ours cannot compute.
      left: {their pattern: why it is left out}.
      pixels: (mean, standard deviation) per channel with which our tower normalises images; () =
        not a vision tower with such a setting.
      copies: {their name: names that must hold the same}.
      zeros: {their name: why it must be zero}.
      derived: {parameter that only we have: why it becomes zero}.
      new: {pattern of parameters that only we have: why they stay as initialised}.
    """

    name: str
    part: str
    download: str
    marker: str
    prefixes: tuple[str, ...]
    rows: tuple[Row, ...]
    settings: Callable[[Mapping[str, Any], Collection[str]], dict[str, Any]]
    refusals: Callable[[Mapping[str, Any]], list[str]]
    left: Mapping[str, str]
    pixels: tuple[tuple[float, ...], ...] = ()
    copies: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    zeros: Mapping[str, str] = dataclasses.field(default_factory=dict)
    derived: Mapping[str, str] = dataclasses.field(default_factory=dict)
    new: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Transform(NamedTuple):
    """`ours(x, shape)` converts to our layout, and to `shape` if it can; `theirs` undoes it."""

    ours: Callable[[np.ndarray, Shape], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray] | None  # None = not exported


def _third(i: int) -> Transform:
    """Query, key or value of PyTorch's fused [3D, D] or [3D]; ValueError if 3 does not divide."""
    return Transform(lambda x, shape: np.split(x, 3)[i].T.reshape(shape), None)


TRANSFORMS = {
    "as_is": Transform(lambda x, shape: x, lambda x: x),
    "transpose": Transform(lambda x, shape: x.T, lambda x: x.T),
    "to_heads": Transform(lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(len(x), -1).T),
    "heads_bias": Transform(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1)),
    "from_heads": Transform(
        lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(-1, x.shape[-1]).T
    ),
    "convolution": Transform(
        lambda x, shape: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
    ),
    "only": Transform(lambda x, shape: x.squeeze(0), lambda x: x[None]),  # ValueError if several
    # BART never reads the first two rows of its position table.
    "after_two": Transform(lambda x, shape: x[2:], lambda x: np.pad(x, ((2, 0), (0, 0)))),
    "query_third": _third(0),
    "key_third": _third(1),
    "value_third": _third(2),
}

# Kinds of PyTorch layers: our arrays, and transforms, for ("weight", "bias").
_LAYERS = {
    "norm": (("scale", "as_is"), ("bias", "as_is")),
    "dense": (("kernel", "transpose"), ("bias", "as_is")),
    "to_heads": (("kernel", "to_heads"), ("bias", "heads_bias")),
    "from_heads": (("kernel", "from_heads"), ("bias", "as_is")),
    "convolution": (("kernel", "convolution"), ("bias", "as_is")),
}


def torch_rows(theirs: str, ours: str, layers: Mapping[str, tuple[str, str]]) -> tuple[Row, ...]:
    """The rows of PyTorch's layers, each with a weight and a bias.

    Args:
      theirs, ours: the prefixes of their names and of ours.
      layers: {their layer: (our layer, "norm", "dense", "to_heads", "from_heads" or
        "convolution")}.
    """
    return tuple(
        (f"{theirs}{layer}.{array}", f"{ours}{our_layer}/{our_array}", how)
        for layer, (our_layer, kind) in layers.items()
        for array, (our_array, how) in zip(("weight", "bias"), _LAYERS[kind], strict=True)
    )


def torch_attention(theirs: str, ours: str) -> dict[str, tuple[str, str]]:
    """`layers` for `torch_rows`: attention in the naming of BART and SigLIP."""
    heads = {
        f"{theirs}.{x[0]}_proj": (f"{ours}/{x}", "to_heads") for x in ("query", "key", "value")
    }
    return heads | {f"{theirs}.out_proj": (f"{ours}/out", "from_heads")}
