"""Curves as charts: smoothed, thinned, scaled."""

import math

import numpy as np
import pytest

from igerg_jax.report import charts


def test_smoothing_keeps_a_constant_and_starts_at_the_first_value():
    assert charts.smooth([(s, 3.0) for s in range(50)], 9) == [
        (s, pytest.approx(3.0)) for s in range(50)
    ]
    points = [(0, 8.0), (1, 0.0), (2, math.nan), (3, 0.0)]
    values = charts.smooth(points, 3)
    assert values[0] == (0, 8.0)
    assert [x for x, _ in values] == [0, 1, 3]
    assert 8 > values[1][1] > values[2][1] > 0


def test_thinning_keeps_the_ends_the_order_and_the_extremes():
    rng = np.random.default_rng(0)
    points = [(float(s), float(v)) for s, v in enumerate(rng.normal(size=10_000))]
    thinned = charts.thin(points, 400)
    assert len(thinned) <= 402
    assert thinned[0] == points[0] and thinned[-1] == points[-1]
    assert thinned == sorted(set(thinned)) and set(thinned) <= set(points)
    assert max(thinned, key=lambda p: p[1]) == max(points, key=lambda p: p[1])
    assert min(thinned, key=lambda p: p[1]) == min(points, key=lambda p: p[1])
    assert charts.thin(points[:400]) == points[:400]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.31, 0.32), (-3, 7.7), (10, 200_000), (1e-7, 3e-4), (5, 5)]
)
def test_ticks_are_few_even_and_inside(low, high):
    found = charts.ticks(low, high, 4)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    gaps = np.diff(found)
    assert np.allclose(gaps, gaps[:1], rtol=1e-6)
    if high > low:
        assert len(found) >= 2


def test_a_curve_stays_inside_its_chart():
    points = [(s, 1.0 + 0.1 * math.sin(s)) for s in range(300)]
    points[150] = (150, 1e9)
    xy = np.array(charts.line_chart(points, span=9).raw)
    assert xy[:, 0].min() >= charts.LEFT and xy[:, 0].max() <= charts.RIGHT
    assert xy[:, 1].min() >= charts.TOP and xy[:, 1].max() <= charts.BOTTOM
    assert np.ptp(xy[160:, 1]) > 100  # the spike has not pressed the rest flat
