"""Fitting embeddings of another length: positions, patch grids, vocabularies, queries."""

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
    description: str  # for the person who imports
    on_request: bool  # only with --resize_vocabulary


def find(ours: str, source: Shape | None, target: Shape) -> Adaptation | None:
    """How a source's array of that shape becomes our parameter; None where it cannot."""
    if source is None or len(source) != 2 or len(target) != 2 or source[1] != target[1]:
        return None
    if ours not in _KINDS:
        return None
    return _KINDS[ours](source, target)


def _positions(source: Shape, target: Shape) -> Adaptation:
    if target[0] < source[0]:
        description = f"the first {target[0]} of {source[0]} positions"
        return Adaptation(lambda x, shape: x[: shape[0]], description, False)
    description = f"{source[0]} positions interpolated to {target[0]}"
    return Adaptation(_interpolated, description, False)


def _interpolated(x: np.ndarray, shape: Shape) -> np.ndarray:
    """Linear interpolation, end to end."""
    at = np.linspace(0, len(x) - 1, shape[0])
    below = np.minimum(at.astype(int), len(x) - 2)
    part = (at - below)[:, None].astype(x.dtype)
    return x[below] * (1 - part) + x[below + 1] * part


def _grid(source: Shape, target: Shape) -> Adaptation | None:
    for extra in (0, 1):  # a class token's position comes first and stays
        sides = [math.isqrt(shape[0] - extra) for shape in (source, target)]
        if all(s * s + extra == shape[0] for s, shape in zip(sides, (source, target), strict=True)):
            description = "a grid of {0}x{0} patches interpolated to {1}x{1}".format(*sides)
            return Adaptation(functools.partial(_resized, extra), description, False)
    return None


def _resized(extra: int, x: np.ndarray, shape: Shape) -> np.ndarray:
    import jax

    old, new = (math.isqrt(n - extra) for n in (len(x), shape[0]))
    grid = x[extra:].reshape(old, old, -1)
    grid = jax.image.resize(grid, (new, new, shape[1]), "bilinear")
    return np.concatenate([x[:extra], np.asarray(grid).reshape(-1, shape[1])])


def _vocabulary(source: Shape, target: Shape) -> Adaptation:
    if target[0] < source[0]:
        description = f"the first {target[0]} of {source[0]} tokens"
        return Adaptation(lambda x, shape: x[: shape[0]], description, True)
    description = f"{target[0] - source[0]} tokens added to {source[0]}, around their mean"
    return Adaptation(_lengthened, description, True)


def _lengthened(x: np.ndarray, shape: Shape) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.02, (shape[0] - len(x), shape[1]))
    return np.concatenate([x, (x.mean(axis=0) + noise).astype(x.dtype)])


def _queries(source: Shape, target: Shape) -> Adaptation | None:
    if source[0] != 1:
        return None
    description = f"{target[0]} queries from its one, plus noise of 0.02"
    return Adaptation(_around, description, False)


def _around(x: np.ndarray, shape: Shape) -> np.ndarray:
    return (x + np.random.default_rng(0).normal(0, 0.02, shape)).astype(x.dtype)


_KINDS = {
    "encoder_position_embedding": _positions,
    "decoder_position_embedding": _positions,
    "vision_tower/vit/position_embedding": _grid,
    "token_embedding": _vocabulary,
    "vision_tower/pool/queries": _queries,
}
