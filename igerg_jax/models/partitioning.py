"""How activations are sharded, and workarounds where XLA would partition a model badly.

A workaround's docstring says what XLA does without it and names an upstream issue; where it names
none, none was found, and what was measured is the reason. The functions look up the mesh and the
logical axis rules of the context that they are traced in; without a mesh they add nothing. Counts
of collectives were measured with JAX 0.10.2 on eight CPU devices.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec


def _batch_axes() -> tuple[tuple[str, ...], int]:
    """(the mesh axes that shard the batch, into how many parts); ((), 1) without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    rows = () if mesh.empty else _mesh_axes("batch")
    return rows, math.prod(mesh.shape[axis] for axis in rows)


def is_sharded(logical_axis: str) -> bool:
    """Whether several devices share what has this logical axis; False without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = () if mesh.empty else _mesh_axes(logical_axis)
    return math.prod(mesh.shape[axis] for axis in axes) > 1


def is_one_cpu() -> bool:
    """Whether the program is for a single CPU device; without a mesh, for JAX's default backend."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend() == "cpu"
    return mesh.size == 1 and mesh.abstract_device.platform == "cpu"


def _mesh_axes(logical_axis: str) -> tuple[str, ...]:
    (axes,) = nn.logical_to_mesh_axes((logical_axis,))
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def map_batch_shards(function: Callable[..., Any], *arrays_B: jax.Array) -> Any:
    """`function(*arrays)`, called by each device on its own examples.

    For what the partitioner cannot split over the batch although examples are independent: it
    all-gathers the arguments and computes the whole batch on every device. Arguments and results
    have the batch as their first axis. Pallas kernels cannot tell shard_map which of their
    results are replicated, hence no check (https://github.com/jax-ml/jax/issues/21855).
    """
    rows, shards = _batch_axes()
    if shards == 1 or any(x.shape[0] % shards for x in arrays_B):  # `init` has one example
        return function(*arrays_B)
    spec = PartitionSpec(rows)
    mapped = jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)
    return mapped(*arrays_B)


def top_k(x_BxM: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`lax.top_k` of [B, ..., M].

    XLA all-gathers the operand of a top-k over a sharded batch, although it partitions a sort: for
    beams and a vocabulary, gigabytes per step. Where it does partition a top-k, the indices have
    been wrong (https://github.com/openxla/xla/pull/49006).
    """
    return map_batch_shards(lambda x: jax.lax.top_k(x, k), x_BxM)


def bernoulli(key: jax.Array, p: float, shape: tuple[int, ...]) -> jax.Array:
    """`jax.random.bernoulli` of a shape whose first axis is the batch.

    XLA partitions threefry's bits, which stay the same on any mesh. Those of the hardware
    generators (rbg) it does not: every device would draw the whole batch's. There, each device
    draws its own from a key of its own, so that the mask depends on the mesh. XLA's flag that
    partitions them, xla_tpu_spmd_rng_bit_generator_unsafe, may draw other bits when the backward
    pass recomputes them (https://github.com/jax-ml/jax/issues/21046).
    """
    rows, shards = _batch_axes()
    impl = jax.random.key_impl(key)
    if "threefry" in str(impl) or shards == 1 or shape[0] % shards:
        return jax.random.bernoulli(key, p, shape)

    def draw(data):
        local_key = jax.random.wrap_key_data(data, impl=impl)
        local_key = jax.random.fold_in(local_key, jax.lax.axis_index(rows))
        return jax.random.bernoulli(local_key, p, (shape[0] // shards, *shape[1:]))

    mapped = jax.shard_map(
        draw, in_specs=PartitionSpec(), out_specs=PartitionSpec(rows), check_vma=False
    )
    return mapped(jax.random.key_data(key))


def lookup(table_VxD: jax.Array, ids_BxL: jax.Array) -> jax.Array:
    """The rows [B, L, D] of an embedding table for ids [B, L], sharded over the batch.

    Where devices that hold different examples also hold different columns of the table (FSDP),
    each looks up the ids of all of them in its own columns, and they exchange the results. Left to
    itself, the partitioner finds other ways, some of which cross slices.
    """
    rows, shards = _batch_axes()
    if shards == 1 or ids_BxL.shape[0] % shards:
        return table_VxD[ids_BxL]
    columns = _mesh_axes("embed")
    others = tuple(axis for axis in rows if axis not in columns)
    constrain = jax.lax.with_sharding_constraint
    ids_BxL = constrain(ids_BxL, PartitionSpec(others))
    x_BxLxD = constrain(table_VxD[ids_BxL], PartitionSpec(others, None, columns))
    return constrain(x_BxLxD, PartitionSpec(rows))


def replicate_small_parameter(x: jax.Array) -> jax.Array:
    """A position table or the like, all-gathered before it is added to activations.

    Otherwise activations are resharded around the sum: 10 all-to-alls instead of 6 in the step of a
    small model on dcn=2 data=2 fsdp=2, and 77 all-gathers instead of 74.
    """
    return nn.with_logical_constraint(x, (None,) * x.ndim)


def shard_activations(x_BxLxD: jax.Array) -> jax.Array:
    """Activations sharded only over the batch, [B, L, D].

    After each residual, so that FSDP gathers weights and not activations. After the masked-token
    head for correctness: without it, on data=2 fsdp=2 tensor=2, the partitioner silently computes
    gradients that are off by 62 % of the largest one (8e-7 with it). Others have seen wrong
    gradients where it reshards partial sums (https://github.com/openxla/xla/issues/40034); whether
    this is the same fault is not known.
    """
    return nn.with_logical_constraint(x_BxLxD, ("batch", None, None))


def by_slice(x_Bx: jax.Array) -> jax.Array:
    """[B, ...] as [dcn, B / dcn, ...]: the rows of each slice together; dcn = 1 without a mesh.

    The constraint says that the reshape moves no row to another slice. XLA finds that by itself in
    small programs; a loss within slices must not depend on whether it does: how a reshape is
    partitioned is fixed in XLA's code (https://github.com/openxla/xla/issues/13306).
    """
    mesh = jax.sharding.get_abstract_mesh()
    slices = 1 if mesh.empty else mesh.shape["dcn"]
    x_SxRx = x_Bx.reshape(slices, -1, *x_Bx.shape[1:])
    rows, _ = _batch_axes()
    if slices == 1 or "dcn" not in rows:  # a config's own rules may leave it out
        return x_SxRx
    within = tuple(axis for axis in rows if axis != "dcn")
    return jax.lax.with_sharding_constraint(x_SxRx, PartitionSpec("dcn", within))


def project_merged_heads(y_BxLxD: jax.Array, kernel_HxExD: jax.Array) -> jax.Array:
    """sum over H, E of y * kernel, for heads that lie side by side (D = H * E).

    As one product of matrices, which is how the fused kernel leaves its result in memory. For the
    einsum over split heads, XLA's TPU compiler transposes it first.
    """
    return y_BxLxD @ kernel_HxExD.reshape(-1, kernel_HxExD.shape[-1])
