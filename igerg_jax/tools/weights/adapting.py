"""What makes a table of another length fit: positions, patch grids, vocabularies, queries."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Adaptation(NamedTuple):
    """How a [rows, width] array becomes one of `target` rows."""

    apply: Callable[[np.ndarray, Shape], np.ndarray]
    said: str  # for the person who imports
    asked: bool  # it is the vocabulary: only where that is asked for


def find(ours: str, found: Shape | None, target: Shape) -> Adaptation | None:
    """The adaptation for a parameter of ours; None where there is none."""
    if found is None or len(found) != 2 or len(target) != 2 or found[1] != target[1]:
        return None
    if ours not in _KINDS:
        return None
    return _KINDS[ours](found, target)


def _positions(found: Shape, target: Shape) -> Adaptation:
    if target[0] < found[0]:
        said = f"the first {target[0]} of {found[0]} positions"
        return Adaptation(lambda x, shape: x[: shape[0]], said, False)
    said = f"{found[0]} positions interpolated to {target[0]}"
    return Adaptation(_interpolated, said, False)


def _interpolated(x: np.ndarray, shape: Shape) -> np.ndarray:
    """Linear, end to end."""
    at = np.linspace(0, len(x) - 1, shape[0])
    below = np.minimum(at.astype(int), len(x) - 2)
    part = (at - below)[:, None].astype(x.dtype)
    return x[below] * (1 - part) + x[below + 1] * part


def _grid(found: Shape, target: Shape) -> Adaptation | None:
    for extra in (0, 1):  # a class token's position comes first and stays
        sides = [math.isqrt(shape[0] - extra) for shape in (found, target)]
        if all(s * s + extra == shape[0] for s, shape in zip(sides, (found, target), strict=True)):
            said = "a grid of {0}x{0} patches interpolated to {1}x{1}".format(*sides)
            return Adaptation(functools.partial(_resized, extra), said, False)
    return None


def _resized(extra: int, x: np.ndarray, shape: Shape) -> np.ndarray:
    import jax

    old, new = (math.isqrt(n - extra) for n in (len(x), shape[0]))
    grid = x[extra:].reshape(old, old, -1)
    grid = jax.image.resize(grid, (new, new, shape[1]), "bilinear")
    return np.concatenate([x[:extra], np.asarray(grid).reshape(-1, shape[1])])


def _vocabulary(found: Shape, target: Shape) -> Adaptation:
    if target[0] < found[0]:
        said = f"the first {target[0]} of {found[0]} tokens"
        return Adaptation(lambda x, shape: x[: shape[0]], said, True)
    said = f"{target[0] - found[0]} tokens after {found[0]}, around their mean"
    return Adaptation(_lengthened, said, True)


def _lengthened(x: np.ndarray, shape: Shape) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.02, (shape[0] - len(x), shape[1]))
    return np.concatenate([x, (x.mean(axis=0) + noise).astype(x.dtype)])


def _queries(found: Shape, target: Shape) -> Adaptation | None:
    if found[0] != 1:
        return None
    said = f"{target[0]} queries around its one, apart by noise of 0.02"
    return Adaptation(_around, said, False)


def _around(x: np.ndarray, shape: Shape) -> np.ndarray:
    return (x + np.random.default_rng(0).normal(0, 0.02, shape)).astype(x.dtype)


_KINDS = {
    "encoder_position_embedding": _positions,
    "decoder_position_embedding": _positions,
    "vision_tower/vit/position_embedding": _grid,
    "token_embedding": _vocabulary,
    "vision_tower/pool/queries": _queries,
}
