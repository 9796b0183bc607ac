"""Meshes, the rules from logical to mesh axes, and placing arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from igerg_jax.errors import UserError

AXES = ("dcn", "data", "fsdp", "tensor")


def make_mesh(settings: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `AXES`.

    Args:
      settings: `config.mesh`: axis name -> devices along it; one may be -1 = what is left.
      devices: default all.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [settings[axis] for axis in AXES]
    wanted = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh ({wanted}): sizes must be positive, one of them may be -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh ({wanted}) does not fit {len(devices)} devices; "
            "set config.mesh so that its sizes multiply to that number"
        )
    # Linen's logical constraints are written for Auto axes; make_mesh's default is Explicit.
    return jax.make_mesh(sizes, AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def rules(config: Any) -> tuple[tuple[str, Any], ...]:
    """`config.sharding_rules` as Flax wants it: (logical axis, mesh axis, axes or None)."""
    return tuple(
        (name, tuple(axes) if isinstance(axes, list | tuple) else axes)
        for name, axes in config.sharding_rules
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples spread over every axis but `tensor`; the other dimensions whole."""
    return NamedSharding(mesh, PartitionSpec(("dcn", "data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(abstract: Any, mesh: Mesh, logical_rules) -> Any:
    """Shardings for a tree whose leaves may be boxed with logical axes (as `init` makes them).

    Raises:
      UserError: a dimension does not divide over its mesh axes; the message names it.
    """
    specs = nn.get_partition_spec(abstract)
    shardings = nn.logical_to_mesh_sharding(specs, mesh, logical_rules)
    leaves = jax.tree_util.tree_leaves_with_path(nn.meta.unbox(abstract))
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        _check_divides(jax.tree_util.keystr(path), leaf.shape, sharding)
    return shardings


def _check_divides(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> None:
    for dimension, axes in enumerate(sharding.spec):
        axes = (axes,) if isinstance(axes, str) else (axes or ())
        parts = math.prod(sharding.mesh.shape[axis] for axis in axes)
        if shape[dimension] % parts:
            raise UserError(
                f"{name}: dimension {dimension} of {shape} does not divide over "
                f"{parts} devices of mesh axes {axes}; change config.mesh, "
                "config.sharding_rules or the model's size"
            )


def bytes_per_device(tree: Any) -> int:
    """What the arrays of an abstract tree take on one device; their padding is not counted."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def check_batch(batch_size: int, accumulate_steps: int, mesh: Mesh, name: str) -> None:
    """Raises UserError where `batch_size` does not divide over devices and micro-steps."""
    if batch_size < 1 or accumulate_steps < 1:
        raise UserError(
            f"{name}={batch_size} in {accumulate_steps} accumulation steps: both must be at least 1"
        )
    shards = math.prod(mesh.shape[axis] for axis in ("dcn", "data", "fsdp"))
    if batch_size % (shards * accumulate_steps):
        steps = f" times {accumulate_steps} accumulation steps" if accumulate_steps > 1 else ""
        raise UserError(
            f"{name}={batch_size} does not divide over {shards} data shards{steps}; "
            f"use a multiple of {shards * accumulate_steps}"
        )


def process_rows(placed: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold.

    Processes need not lie one after another along the mesh (a TPU's hosts do not), and those that
    share rows (a `tensor` axis over several hosts) each read them.

    Returns:
      int64[B'], ascending: what `to_devices` wants of each array, in that order.
    """
    held = np.zeros(batch_size, bool)
    for (rows,) in placed.addressable_devices_indices_map((batch_size,)).values():
        held[rows] = True
    return np.flatnonzero(held)


def to_devices(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Global arrays out of this process's rows (`process_rows`) of a batch."""
    # Among several processes JAX does not count this as the explicit transfer that it is.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, values)
            for name, values in batch.items()
        }
