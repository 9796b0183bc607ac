"""From a source's layout to ours, and back. The names are the third column of the tables.

PyTorch keeps a dense layer as [out, in] and a convolution as [out, in, height, width]; we keep
[in, out] and [height, width, in, out], and attention's matrices divided into heads: [D, H, E] to
the heads, [H, E, D] from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Transform(NamedTuple):
    """`ours(x, shape)` has our shape as far as the source's allows it; `theirs` undoes it."""

    ours: Callable[[np.ndarray, Shape], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray] | None  # None = not exported


def _third(i: int) -> Transform:
    """Query, key or value of PyTorch's fused [3D, D] or [3D]."""

    def ours(x: np.ndarray, shape: Shape) -> np.ndarray:
        return np.split(x, 3)[i].T.reshape(shape)  # raises ValueError where 3 does not divide it

    return Transform(ours, None)


def _zeros_before(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((2, *x.shape[1:]), x.dtype), x])


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
    # BART never reads the first two of its positions: its padding id, and one more.
    "after_two": Transform(lambda x, shape: x[2:], _zeros_before),
    "query_third": _third(0),
    "key_third": _third(1),
    "value_third": _third(2),
}
