"""Tests of whether two models differ on the same test windows: paired bootstrap, Holm's correction.

In names of arrays, W = test windows and x = any leading axes, of separate experiments.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # imports scipy.stats at its first use: it takes a second

RESAMPLES = 9999
MIN_WINDOWS = 10  # with fewer, there are too few different resamples for an interval


class Difference(NamedTuple):
    """A difference between two models, its interval and its p-value; each float64 [x]."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray  # two-sided, under the hypothesis of no difference


def paired_bootstrap(
    difference_xW: np.ndarray,
    weight_xW: np.ndarray,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The weighted mean difference over windows, sum(difference) / sum(weight).

    Windows are drawn with replacement, each with both models' results, so that what makes a window
    hard for both cancels out. The interval is the bias-corrected and accelerated one (BCa, Efron
    1987); p is the share of resamples that lie at least as far from the estimate as the estimate
    lies from 0, with one added to both counts (Davison & Hinkley 1997, section 4.4). A pure
    function of its arguments.

    Args:
      difference_xW: of each window, one model's result minus the other's.
      weight_xW: the positive weight of each window; ones for a plain mean.

    Raises:
      ValueError: fewer than `MIN_WINDOWS` windows, or shapes that differ.
    """
    difference_xW, weight_xW = np.asarray(difference_xW, float), np.asarray(weight_xW, float)
    if difference_xW.shape != weight_xW.shape:
        raise ValueError(f"differences {difference_xW.shape} but weights {weight_xW.shape}")
    if difference_xW.shape[-1] < MIN_WINDOWS:
        raise ValueError(f"{difference_xW.shape[-1]} windows are too few; {MIN_WINDOWS} at least")

    def ratio(difference, weight, axis=-1):
        return difference.sum(axis) / weight.sum(axis)

    with warnings.catch_warnings():
        # If all windows differ by the same amount, the interval is NaN, which is replaced below.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="scipy")
        result = scipy.stats.bootstrap(
            (difference_xW, weight_xW),
            ratio,
            paired=True,
            vectorized=True,
            axis=-1,
            n_resamples=resamples,
            batch=100,
            confidence_level=confidence,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    estimate_x = np.asarray(ratio(difference_xW, weight_xW))
    drawn_xR = result.bootstrap_distribution
    low_x, high_x = (
        np.where(np.isnan(end), estimate_x, end)
        for end in (result.confidence_interval.low, result.confidence_interval.high)
    )
    # Equal up to rounding counts as equally far.
    distance_x = np.abs(estimate_x) * (1 - 1e-12)
    farther_x = (np.abs(drawn_xR - estimate_x[..., None]) >= distance_x[..., None]).sum(-1)
    return Difference(estimate_x, low_x, high_x, (farther_x + 1) / (resamples + 1))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in their order.

    The probability of rejecting any true hypothesis stays below the level, however the tests depend
    on each other.
    """
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, (len(p) - rank) * float(p[i])))
        corrected[i] = largest
    return corrected


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """(mean, sample standard deviation); the deviation of a single value is NaN."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation
