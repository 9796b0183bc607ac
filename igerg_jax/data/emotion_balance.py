"""The order of a split's windows in training: shuffled, or shuffled with
emotions balanced."""

import functools
from collections.abc import Callable

import numpy as np

from igerg_jax.batch import UNKNOWN
from igerg_jax.data import order
from igerg_jax.data.patterns import occurrences, pattern
from igerg_jax.data.windows import Split

_UNITS = 1000  # in which an emotion's share is counted: a share is exact to a thousandth


def order_of(split: Split, seed: int, balance: float) -> Callable[[np.ndarray], np.ndarray]:
    """The endless order of a split's windows: maps int64[n] places to window numbers.

    Every window of an emotion is shown once before any is shown again. Windows without a label
    keep their share.

    Args:
      balance: `config.data.balance_emotions`. An emotion's share of the labelled windows is
        proportional to its count to the power of 1 - balance: 0 = as they are, 1 = all equal.
    """
    if not balance:
        return functools.partial(_shuffled, seed, split.num_windows)
    emotion_W = split.turns.emotion[split.response_turn]
    emotions, count_E = np.unique(emotion_W, return_counts=True)
    windows = [np.flatnonzero(emotion_W == emotion) for emotion in emotions]
    seeds = [int(s) for s in order.hash_uint64(seed, emotions - UNKNOWN) >> np.uint64(1)]
    return functools.partial(_balanced, windows, seeds, _pattern(emotions, count_E, balance))


def shares(emotion_E: np.ndarray, count_E: np.ndarray, balance: float) -> np.ndarray:
    """float64[E]: the share of each emotion, or of windows without one; they add up to 1."""
    labelled_E = emotion_E != UNKNOWN
    share_E = count_E / count_E.sum()
    weight_E = np.where(labelled_E, count_E.astype(np.float64) ** (1 - balance), 0.0)
    total = max(weight_E.sum(), 1.0)
    return np.where(labelled_E, weight_E / total * share_E[labelled_E].sum(), share_E)


def _pattern(emotion_E: np.ndarray, count_E: np.ndarray, balance: float) -> np.ndarray:
    units_E = np.maximum(np.round(shares(emotion_E, count_E, balance) * _UNITS), 1)
    return pattern([int(units) for units in units_E])


def _shuffled(seed: int, num_windows: int, places: np.ndarray) -> np.ndarray:
    return order.examples_at(seed, places, num_windows)


def _balanced(
    windows: list[np.ndarray], seeds: list[int], pattern_P: np.ndarray, places: np.ndarray
) -> np.ndarray:
    ids = np.empty_like(places)
    for e, at, nth in occurrences(pattern_P, places):
        ids[at] = windows[e][order.examples_at(seeds[e], nth, len(windows[e]))]
    return ids
