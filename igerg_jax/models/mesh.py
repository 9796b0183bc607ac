"""What the model's own per-device code asks about the mesh that it is traced under."""

from __future__ import annotations

import math

import flax.linen as nn
import jax


def batch_shards() -> tuple[tuple[str, ...], int]:
    """(the mesh axes that hold the batch, into how many parts they divide it); ((), 1) without."""
    mesh = jax.sharding.get_abstract_mesh()
    (rows,) = nn.logical_to_mesh_axes(("batch",))
    if mesh.empty or rows is None:
        return (), 1
    rows = (rows,) if isinstance(rows, str) else tuple(rows)
    return rows, math.prod(mesh.shape[axis] for axis in rows)
