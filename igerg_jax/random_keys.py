"""Random keys, by name and by example.

Every random draw of a step uses the step's key, folded with a stable hash of a name and with the
examples' indices in the global batch. So an objective's draws depend neither on which other
objectives there are nor on how the batch is split over devices, hosts and accumulation steps.
"""

import zlib

import jax


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Folds a hash of `name` into `key`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def row_keys(key: jax.Array, rows_B: jax.Array) -> jax.Array:
    """One key per example, from its index in the global batch (int32 [B]).

    They are threefry keys whatever `train.prng` is: what is masked must not depend on the mesh.
    """
    key = jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows_B)


def batch_key(key: jax.Array, rows_B: jax.Array) -> jax.Array:
    """One key for noise that is drawn for all of a (micro-)batch at once, such as dropout."""
    return jax.random.fold_in(key, rows_B[0])
