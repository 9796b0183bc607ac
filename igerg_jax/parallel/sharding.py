"""Meshes, the rules that map logical to mesh axes, and the placement of arrays."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from igerg_jax.errors import UserError

AXES = ("dcn", "data", "fsdp", "tensor")
LOGICAL_AXES = (
    *("batch", "vocab", "embed", "mlp", "heads", "head_dim"),
    *("layers", "positions", "classes", "patch", "norm"),
)
BATCH_AXES = ("dcn", "data", "fsdp")  # those that shard a batch's examples


def make_mesh(settings: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `devices` (default all) with the axes `AXES`.

    Args:
      settings: `config.mesh`: axis name -> devices along it; one may be -1 = all that are left.

    Raises:
      UserError: the sizes' product is not the number of devices, or the torus has no such mesh.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [settings[axis] for axis in AXES]
    wanted = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh ({wanted}): sizes must be positive, one of them may be -1")
    given = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % given == 0:
        sizes[sizes.index(-1)] = len(devices) // given
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh ({wanted}) does not fit {len(devices)} devices; "
            "set config.mesh so that the product of its sizes is that number"
        )
    # `jax.make_mesh` defaults to Explicit axes. There a product of activations and weights that
    # `fsdp` shards both is refused, unless the weights are resharded first, as are lookups and
    # Linen's logical constraints (Flax 0.12.8, JAX 0.10.2).
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        try:
            return jax.make_mesh(sizes, AXES, types, devices=devices)
        except NotImplementedError as error:
            raise UserError(
                f"mesh ({wanted}) does not fit this torus: every size must be a product of "
                f"sides of the topology (as fsdp=16 of 16x16). {error}"
            ) from error
    if sizes[0] != slices:
        raise UserError(
            f"mesh ({wanted}): mesh.dcn must be {slices}, one for every slice, so that only "
            "gradients cross the data-centre network"
        )
    return Mesh(hybrid_device_mesh(sizes, devices), AXES, axis_types=types)


def hybrid_device_mesh(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices by mesh position: the first axis spans slices, the others lie within one."""
    within, over = (1, *sizes[1:]), (sizes[0],) + (1,) * (len(sizes) - 1)
    return mesh_utils.create_hybrid_device_mesh(within, over, devices)


def rules(config: Any) -> tuple[tuple[str, Any], ...]:
    """`config.sharding_rules` in Flax's types: (logical axis, mesh axis, axes or None).

    Raises:
      UserError: a rule is not such a pair, or names an unknown axis.
    """
    if not isinstance(config.sharding_rules, list | tuple):
        raise UserError(f"sharding_rules={config.sharding_rules!r} is not a list of rules")
    for rule in config.sharding_rules:
        _check_rule(rule)
    return tuple(
        (name, tuple(axes) if isinstance(axes, list | tuple) else axes)
        for name, axes in config.sharding_rules
    )


def _check_rule(rule: Any) -> None:
    if not isinstance(rule, list | tuple) or len(rule) != 2 or not isinstance(rule[0], str):
        raise UserError(
            f"sharding_rules: {rule!r} is not a pair of a logical axis and its mesh axes, such as "
            "('mlp', 'tensor')"
        )
    name, axes = rule
    if name not in LOGICAL_AXES:
        raise UserError(
            f"sharding_rules: there is no logical axis '{name}'; available: "
            f"{', '.join(LOGICAL_AXES)}"
        )
    axes = [] if axes is None else axes if isinstance(axes, list | tuple) else [axes]
    unknown = [axis for axis in axes if axis not in AXES]
    if unknown or len(set(axes)) < len(axes):
        raise UserError(
            f"sharding_rules: {rule!r} must name mesh axes, each once ({', '.join(AXES)}), or None"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the first axis over `BATCH_AXES`, the others not at all."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """The number of shards that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device of the mesh holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def abstract(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """An array's shape, dtype and intended sharding."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def state_shardings(abstract: Any, mesh: Mesh, logical_rules) -> Any:
    """Shardings for a tree whose leaves may be boxed with logical axes, as `init` returns them.

    Raises:
      UserError: a dimension does not divide over its mesh axes; the message names it.
    """
    specs = nn.get_partition_spec(abstract)
    shardings = nn.logical_to_mesh_sharding(specs, mesh, logical_rules)
    leaves = jax.tree_util.tree_leaves_with_path(nn.meta.unbox(abstract))
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        for dimension, axes in enumerate(sharding.spec):
            axes = (axes,) if isinstance(axes, str) else (axes or ())
            parts = math.prod(mesh.shape[axis] for axis in axes)
            if leaf.shape[dimension] % parts:
                raise UserError(
                    f"{jax.tree_util.keystr(path)}: dimension {dimension} of {leaf.shape} does not "
                    f"divide over {parts} devices of mesh axes {axes}; change config.mesh, "
                    "config.sharding_rules or the model's size"
                )
    return shardings


def bytes_per_device(tree: Any) -> int:
    """The bytes that an abstract tree's arrays take on one device, without padding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


class Group(NamedTuple):
    """A row of the start-up table: parameters of one module, with the largest's shape and spec."""

    name: str
    shape: tuple[int, ...]
    spec: str  # one entry per dimension: its mesh axes, or - if it is not sharded
    bytes_per_device: int


def groups(params: Any) -> list[Group]:
    """Groups a model's parameters, abstract or not, by module; in a stack of layers, by block."""
    members: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        parts = [key.key for key in path]
        depth = parts.index("layers") + 2 if "layers" in parts else 2
        members.setdefault("/".join(parts[:depth]), []).append(leaf)
    rows = []
    for name, leaves in members.items():
        largest = max(leaves, key=lambda leaf: leaf.size)
        axes = itertools.zip_longest(largest.sharding.spec, range(largest.ndim))
        names = ["+".join(a) if isinstance(a, tuple) else a or "-" for a, _ in axes]
        rows.append(Group(name, largest.shape, ", ".join(names) or "-", bytes_per_device(leaves)))
    return rows


def table(params: Any) -> str:
    """`groups` as a text table; those below 1 % of the total share a line.

    (clu.parameter_overview prints every array, 137 lines for the preset "base" instead of 13, and
    no bytes per device.)
    """
    every = groups(params)
    total = sum(group.bytes_per_device for group in every)
    shown = [group for group in every if group.bytes_per_device >= total / 100]
    rows = [("parameters", "largest", "mesh axes", "MiB per device")]
    for group in shown:
        shape = "x".join(map(str, group.shape)) or "scalar"
        rows.append((group.name, shape, group.spec, f"{group.bytes_per_device / 2**20:.3f}"))
    rest = total - sum(group.bytes_per_device for group in shown)
    rows.append((f"{len(every) - len(shown)} smaller groups", "", "", f"{rest / 2**20:.3f}"))
    rows.append(("together", "", "", f"{total / 2**20:.3f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"  {name:<{widths[0]}}  {shape:<{widths[1]}}  {spec:<{widths[2]}}  {size:>{widths[3]}}"
        for name, shape, spec, size in rows
    )


def check_batch(batch_size: int, accumulate_steps: int, mesh: Mesh, name: str) -> None:
    """Raises UserError unless `batch_size`, whose config key is `name`, divides evenly."""
    if batch_size < 1 or accumulate_steps < 1:
        raise UserError(
            f"{name}={batch_size} in {accumulate_steps} accumulation steps: both must be at least 1"
        )
    shards = batch_shards(mesh)
    if batch_size % (shards * accumulate_steps):
        steps = f" times {accumulate_steps} accumulation steps" if accumulate_steps > 1 else ""
        raise UserError(
            f"{name}={batch_size} does not divide over {shards} data shards{steps}; "
            f"use a multiple of {shards * accumulate_steps}"
        )


def process_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold.

    Processes need not be in order along the mesh (a TPU's hosts are not), and processes that share
    rows (a `tensor` axis over several hosts) each read them.

    Returns:
      int64[B'], ascending: the rows of each array that `to_devices` takes, in that order.
    """
    held = np.zeros(batch_size, bool)
    for (rows,) in sharding.addressable_devices_indices_map((batch_size,)).values():
        held[rows] = True
    return np.flatnonzero(held)


def to_devices(arrays: Any, sharding: NamedSharding) -> Any:
    """Global arrays from this process's rows (`process_rows`) of a tree of arrays [B, ...]."""
    # With several processes, JAX's transfer guard mistakes this for an implicit transfer.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(
            lambda values: jax.make_array_from_process_local_data(sharding, values), arrays
        )
