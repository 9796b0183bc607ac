"""What the model's own per-device code asks about the mesh that it is traced under."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec


def batch_shards() -> tuple[tuple[str, ...], int]:
    """(the mesh axes that hold the batch, into how many parts they divide it); ((), 1) without."""
    mesh = jax.sharding.get_abstract_mesh()
    (rows,) = nn.logical_to_mesh_axes(("batch",))
    if mesh.empty or rows is None:
        return (), 1
    rows = (rows,) if isinstance(rows, str) else tuple(rows)
    return rows, math.prod(mesh.shape[axis] for axis in rows)


def by_slice(x_Bx: jax.Array) -> jax.Array:
    """[B, ...] as [dcn, B / dcn, ...]: the rows of each slice together; dcn = 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    slices = 1 if mesh.empty else mesh.shape["dcn"]
    parts_x = x_Bx.reshape(slices, -1, *x_Bx.shape[1:])
    rows, _ = batch_shards()
    if slices == 1 or "dcn" not in rows:  # rules of one's own may leave it out
        return parts_x
    within = tuple(axis for axis in rows if axis != "dcn")
    return jax.lax.with_sharding_constraint(parts_x, PartitionSpec("dcn", within))


def lookup(table_VxD: jax.Array, ids_BxL: jax.Array) -> jax.Array:
    """The rows [B, L, D] of an embedding table for ids [B, L], divided over the batch.

    Where devices that hold different examples also hold different columns of the table (FSDP),
    they look all their examples' words up in the columns that they have, and exchange. Said
    here, since XLA's partitioner else finds ways of its own, which cross slices.
    """
    rows, shards = batch_shards()
    if shards == 1 or ids_BxL.shape[0] % shards:
        return table_VxD[ids_BxL]
    (columns,) = nn.logical_to_mesh_axes(("embed",))
    columns = (columns,) if isinstance(columns, str) else tuple(columns or ())
    others = tuple(axis for axis in rows if axis not in columns)
    constrain = jax.lax.with_sharding_constraint
    ids_BxL = constrain(ids_BxL, PartitionSpec(others))
    x_BxLxD = constrain(table_VxD[ids_BxL], PartitionSpec(others, None, columns))
    return constrain(x_BxLxD, PartitionSpec(rows))


def whole(x: jax.Array) -> jax.Array:
    """A small parameter, gathered before it is added to what is divided over the batch."""
    return nn.with_logical_constraint(x, (None,) * x.ndim)
