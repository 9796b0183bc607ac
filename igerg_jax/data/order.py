"""Which examples a step holds: a pure function of (seed, step), in O(1) at any step.

An epoch's order is a permutation that is computed, not stored: a Feistel network over the
smallest even number of bits that can index the examples, with cycle walking to stay inside the
range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Step k holds the positions
[k*B, (k+1)*B) of the endless sequence epoch 0, epoch 1, ..., so a batch may contain the end of one
epoch and the start of the next. The order does not depend on the number of hosts: each takes its
rows of the global batch.
"""

import numpy as np

_ROUNDS = 6  # four make a pseudo-random permutation (Luby and Rackoff); the rest is margin
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def positions(step: int, batch_size: int) -> np.ndarray:
    """Returns int64[B]: the step's positions; each is unique."""
    return np.int64(step) * batch_size + np.arange(batch_size, dtype=np.int64)


def evenly_spaced(count: int, total: int) -> np.ndarray:
    """Returns int64[min(count, total)]: ascending numbers below `total`, spread evenly."""
    count = min(count, total)
    return np.arange(count) * total // max(count, 1)


def examples_at(seed: int, positions_B: np.ndarray, num_examples: int) -> np.ndarray:
    """Returns int64[B]: the example, below num_examples, at each position of the endless order."""
    if num_examples < 1:
        raise ValueError(f"num_examples is {num_examples}, expected at least 1")
    epochs_B, within_B = np.divmod(positions_B, num_examples)
    out_B = np.empty_like(within_B)
    for epoch in np.unique(epochs_B):  # rarely more than two
        selected_B = epochs_B == epoch
        out_B[selected_B] = permute(seed, int(epoch), within_B[selected_B], num_examples)
    return out_B


def permute(seed: int, epoch: int, values_B: np.ndarray, size: int) -> np.ndarray:
    """Applies the (seed, epoch)-th permutation of 0..size-1 to int64[B] values; int64[B]."""
    half_bits = max(1, -(-(size - 1).bit_length() // 2))
    keys = hash_uint64(seed, epoch, np.arange(_ROUNDS))
    out_B = _feistel(values_B.astype(np.uint64), keys, half_bits)
    # The domain is at most four times `size`, so this takes a few iterations.
    while (outside_B := out_B >= size).any():
        out_B[outside_B] = _feistel(out_B[outside_B], keys, half_bits)
    return out_B.astype(np.int64)


def hash_uint64(*parts: int | np.ndarray) -> np.ndarray:
    """Returns uint64 hashes of the parts, integers or integer arrays, broadcast together.

    The finaliser of splitmix64 (Steele, Lea and Flood, 2014), folded over the parts.
    """
    state = np.zeros(np.broadcast_shapes(*(np.shape(p) for p in parts)), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = _mix((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


def uniforms(*parts: int | np.ndarray) -> np.ndarray:
    """Returns float64 in [0, 1), one for each hash of the parts: stateless random numbers."""
    return (hash_uint64(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _feistel(values: np.ndarray, keys: np.ndarray, half_bits: int) -> np.ndarray:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    with np.errstate(over="ignore"):
        for key in keys:
            left, right = right, left ^ (_mix((right ^ key) + _GOLDEN) & mask)
    return (left << bits) | right
