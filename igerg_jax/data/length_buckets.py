"""Batches of windows of similar lengths, so that less of a batch is padding.

`data.length_buckets` lists the (context, response) tokens that shorter batches have room for; the
last bucket, which is not listed, has room for data.context_tokens and data.response_tokens. A
window is in the first bucket that it fits into, and a batch has the size of the largest bucket
among its windows: each size is a program of its own, compiled once.

Which windows a step holds stays a pure function of the step. Steps are grouped into blocks, and a
block holds the positions of the order that it would hold without buckets, dealt differently: sorted
by bucket, cut into batches, and the batches of a bucket spread evenly over the block. So after each
block training has seen what it would have seen without buckets, whatever the order is: each window
once an epoch, each dataset of a mixture and each emotion as often. A step costs the order of a
block, wherever training starts.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.batch import BatchSpec
from igerg_jax.data import lengths, order
from igerg_jax.data.windows import Split

_BLOCK_STEPS = 64  # of which at most one per bucket also holds windows of a smaller one
_GOLDEN = (5**0.5 - 1) / 2


class Dealt(NamedTuple):
    """What a step holds of one order.

    Attributes:
      positions_B: int64[B], positions in the order.
      bucket: the number of the largest bucket among their windows.
    """

    positions_B: np.ndarray
    bucket: int


class Dealer:
    """Deals the positions of an endless order to steps."""

    def __init__(
        self, bucket_at: Callable[[np.ndarray], np.ndarray], num_windows: int, batch_size: int
    ):
        """Computes nothing.

        Args:
          bucket_at: maps int64[n] positions to the numbers of their windows' buckets, int[n].
          num_windows: of an epoch. A block is at most an epoch, so that no batch is made of copies
            of a few windows.
          batch_size: B, of the global batch.
        """
        self._bucket_at, self._batch_size = bucket_at, batch_size
        self._steps = max(1, min(_BLOCK_STEPS, num_windows // batch_size))
        self._block = functools.lru_cache(maxsize=2)(self._deal)  # steps are read in order

    def step(self, step: int) -> Dealt:
        """What step `step` (from 0) holds: the same in every process."""
        block, place = divmod(step, self._steps)
        positions_PxB, bucket_P = self._block(block)
        return Dealt(positions_PxB[place], int(bucket_P[place]))

    def _deal(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """int64[P, B] positions of a block's P steps, and int[P] their buckets."""
        positions = order.positions(block, self._steps * self._batch_size)
        buckets = self._bucket_at(positions)
        by_bucket = np.argsort(buckets, kind="stable")  # within a bucket, in their own order
        batches_PxB = by_bucket.reshape(self._steps, self._batch_size)[spread(self._steps)]
        return positions[batches_PxB], buckets[batches_PxB].max(axis=1)


def spread(count: int) -> np.ndarray:
    """int64[count]: the numbers below `count`, any range of which is spread evenly over the places.

    They are the ranks of the multiples of the golden ratio, modulo 1: a sequence whose gaps are as
    even as possible whatever its length (Knuth, The Art of Computer Programming, 6.4, theorem S).
    """
    return np.argsort(np.argsort(np.arange(count) * _GOLDEN % 1))


def numbers(split: Split, config: ConfigDict) -> np.ndarray:
    """int8[W]: the number of the bucket of each of a split's windows, as a batch truncates them."""
    data, counts = config.data, lengths.count(split, config)
    context_W = np.minimum(counts.context, data.context_tokens)
    response_W = np.minimum(counts.response, data.response_tokens)
    fits_LxW = [
        (context_W <= spec.context_tokens) & (response_W <= spec.response_tokens)
        for spec in BatchSpec.by_length(data, 1)
    ]
    return np.argmax(fits_LxW, axis=0).astype(np.int8)


def sized(config: ConfigDict) -> list[ConfigDict]:
    """For each bucket, the config whose batches all have its size."""
    configs = []
    for spec in BatchSpec.by_length(config.data, 1):
        copy = config.copy_and_resolve_references()
        copy.data.context_tokens, copy.data.response_tokens = spec.lengths
        copy.data.length_buckets = ()
        configs.append(copy)
    return configs
