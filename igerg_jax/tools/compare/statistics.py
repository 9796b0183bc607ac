"""Tests of whether two models differ on the same test windows: paired bootstrap, Holm's correction.

K = clusters of test windows that are drawn together, such as a conversation's; a leading x stands
for any axes of separate experiments.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 9999
MIN_CLUSTERS = 10  # with fewer, the resamples are too alike for an interval or a p-value
_BATCH = 1000  # resamples at a time, for the sake of memory


class Difference(NamedTuple):
    """A difference between two models, its interval and its p-value; each float64 [x]."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray  # two-sided, under the hypothesis of no difference


def paired_bootstrap(
    difference_xK: np.ndarray,
    weight_xK: np.ndarray,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The mean difference per unit of weight, sum(difference) / sum(weight), over clusters.

    Clusters are drawn with replacement, each with both models' results: what makes one hard for
    both cancels out. The bootstrap is studentised and symmetric (Hall 1988): in each resample, the
    distance between its estimate and the estimate is divided by its own standard error, that of a
    ratio by the delta method. The interval reaches to both sides as many standard errors as
    `confidence` of the resamples stay within; p is the share of resamples that are off by at least
    as many as the estimate is from 0, one added to both counts (Davison & Hinkley 1997, section
    4.4). With a few dozen clusters, percentile intervals, BCa among them, are too short.
    A pure function of its arguments.

    Args:
      difference_xK: of each cluster, one model's result minus the other's, summed over its windows.
      weight_xK: of each cluster, positive: of a plain mean, how many windows it has.

    Returns:
      An interval without ends, infinite, where so few clusters differ at all that many resamples
      have none of them.

    Raises:
      ValueError: fewer than `MIN_CLUSTERS` clusters, or shapes that differ.
    """
    difference_xK, weight_xK = np.asarray(difference_xK, float), np.asarray(weight_xK, float)
    if difference_xK.shape != weight_xK.shape:
        raise ValueError(f"differences {difference_xK.shape} but weights {weight_xK.shape}")
    clusters = difference_xK.shape[-1]
    if clusters < MIN_CLUSTERS:
        raise ValueError(f"{clusters} clusters are too few; {MIN_CLUSTERS} at least")
    estimate_x1, error_x1 = _ratio_and_error(difference_xK, weight_xK, np.ones((1, clusters)))
    rng, distances = np.random.default_rng(seed), []
    for start in range(0, resamples, _BATCH):
        size = min(_BATCH, resamples - start)
        counts_RxK = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size)
        drawn_xR, error_xR = _ratio_and_error(difference_xK, weight_xK, counts_RxK.astype(float))
        # Equal up to rounding is equal.
        same_xR = np.isclose(drawn_xR, estimate_x1, rtol=1e-12, atol=0)
        distances.append(_in_errors(np.where(same_xR, 0, drawn_xR - estimate_x1), error_xR))
    distance_xR = np.concatenate(distances, -1)
    # "higher": the least of the resamples' distances that enough of them stay within.
    reach_x = np.quantile(distance_xR, confidence, axis=-1, method="higher")
    estimate_x, error_x = estimate_x1[..., 0], error_x1[..., 0]
    half_x = np.multiply(reach_x, error_x, out=np.zeros_like(error_x), where=error_x > 0)
    seen_x1 = _in_errors(estimate_x1, error_x1) * (1 - 1e-9)
    farther_x = (distance_xR >= seen_x1).sum(-1)
    p_x = (farther_x + 1) / (resamples + 1)
    return Difference(estimate_x, estimate_x - half_x, estimate_x + half_x, p_x)


def _ratio_and_error(
    difference_xK: np.ndarray, weight_xK: np.ndarray, counts_RxK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[x, R]: sum(difference) / sum(weight) where each cluster counts so often, and its standard
    error by the delta method."""
    clusters = counts_RxK.shape[-1]
    weight_xR = weight_xK @ counts_RxK.T
    ratio_xR = difference_xK @ counts_RxK.T / weight_xR
    squares_xR = (  # of difference - ratio * weight
        difference_xK**2 @ counts_RxK.T
        - 2 * ratio_xR * ((difference_xK * weight_xK) @ counts_RxK.T)
        + ratio_xR**2 * (weight_xK**2 @ counts_RxK.T)
    )
    # Where all clusters are alike, rounding leaves next to nothing.
    nothing_xR = 1e-12 * (difference_xK**2 @ counts_RxK.T)
    squares_xR = np.where(squares_xR > nothing_xR, squares_xR, 0)
    return ratio_xR, np.sqrt(squares_xR * clusters / (clusters - 1)) / weight_xR


def _in_errors(difference_x: np.ndarray, error_x: np.ndarray) -> np.ndarray:
    """|difference| / error; without an error, 0 for no difference and infinite for any."""
    size_x = np.abs(difference_x)
    without_x = np.where(size_x > 0, np.inf, 0.0)
    return np.divide(size_x, error_x, out=without_x, where=error_x > 0)


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
