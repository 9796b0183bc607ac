"""The paired bootstrap in simulated experiments, whose truth is known, and Holm's correction."""

import numpy as np
import pytest

from igerg_jax.tools.compare import statistics


def of_faces(rng, shape):
    """Of seven faces, the share that one model's words follow minus another's; no true difference.

    How easy a window is, both have in common.
    """
    easy = rng.beta(2, 2, shape)
    return (rng.binomial(7, easy, shape) - rng.binomial(7, easy, shape)) / 7, np.ones(shape)


def of_strong_models(rng, shape):
    """The same where nearly every face is followed, so that most windows do not differ."""
    return (rng.binomial(7, 0.95, shape) - rng.binomial(7, 0.95, shape)) / 7, np.ones(shape)


def of_tokens(rng, shape):
    """Differences of log-likelihoods, heavy-tailed (t with 4 degrees of freedom) for each token, of
    responses as long as people's."""
    tokens = np.ceil(rng.lognormal(2.2, 0.6, shape))
    return np.sqrt(tokens) * rng.standard_t(4, shape), tokens


def of_skewed_tokens(rng, shape):
    tokens = np.ceil(rng.lognormal(2.2, 0.6, shape))
    return np.sqrt(tokens) * (rng.exponential(size=shape) - 1), tokens


# Conversations that `local` answers for seven faces, and about as many as its test windows are of.
@pytest.mark.parametrize("clusters", [48, 100])
@pytest.mark.parametrize("world", [of_faces, of_strong_models, of_tokens, of_skewed_tokens])
def test_intervals_cover_the_truth_as_often_as_they_say_and_p_values_are_honest(world, clusters):
    noise_ExK, weight_ExK = world(np.random.default_rng(0), (3000, clusters))
    null = statistics.paired_bootstrap(noise_ExK, weight_ExK, resamples=999)
    assert 0.93 <= np.mean((null.low <= 0) & (null.high >= 0)) <= 0.97
    assert 0.03 <= np.mean(null.p < 0.05) <= 0.07
    assert 0.45 <= np.mean(null.p < 0.5) <= 0.55
    # A true difference moves all of it along, and shows.
    truth = 0.5 * noise_ExK.std() * np.sqrt(1000) / weight_ExK.sum(1).mean()
    found = statistics.paired_bootstrap(noise_ExK + truth * weight_ExK, weight_ExK, resamples=999)
    np.testing.assert_allclose(found.low, null.low + truth, atol=1e-9)
    np.testing.assert_allclose(found.estimate, null.estimate + truth, atol=1e-9)
    assert np.mean(found.p < 0.05) > 2 * np.mean(null.p < 0.05)


def test_the_interval_and_the_p_value_say_the_same():
    rng = np.random.default_rng(2)
    noise_ExK, weight_ExK = of_tokens(rng, (500, 30))
    found = statistics.paired_bootstrap(noise_ExK + 0.15 * weight_ExK, weight_ExK, resamples=999)
    outside = (found.low > 0) | (found.high < 0)
    assert 0.1 < outside.mean() < 0.9
    # `confidence` of 999 is no whole number, so they may part where p is next to 0.05.
    np.testing.assert_array_equal(outside, found.p < 0.0505)


def test_what_makes_a_window_hard_for_both_cancels_out():
    rng = np.random.default_rng(1)
    hard_W = 100 * rng.standard_normal(50)
    one_W, other_W = (hard_W + x + 0.1 * rng.standard_normal(50) for x in (0.2, 0.0))
    found = statistics.paired_bootstrap(one_W - other_W, np.ones(50))
    assert found.p < 0.01 and found.low < 0.2 < found.high
    assert found.estimate == pytest.approx(one_W.mean() - other_W.mean())
    swapped = statistics.paired_bootstrap(other_W - one_W, np.ones(50))
    assert swapped.p == pytest.approx(found.p, abs=0.005)
    assert swapped.estimate == -found.estimate


def test_no_difference_and_the_same_difference_everywhere():
    same = statistics.paired_bootstrap(np.zeros(20), np.ones(20))
    assert (same.estimate, same.low, same.high, same.p) == (0, 0, 0, 1)
    always = statistics.paired_bootstrap(np.full(20, 0.1), np.ones(20), resamples=999)
    assert (always.estimate, always.low, always.high) == pytest.approx((0.1, 0.1, 0.1))
    assert always.p == pytest.approx(1 / 1000)
    with pytest.raises(ValueError, match="too few"):
        statistics.paired_bootstrap(np.ones(5), np.ones(5))
    with pytest.raises(ValueError, match="weights"):
        statistics.paired_bootstrap(np.ones(20), np.ones(21))


def test_holm_by_hand():
    # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not fall below the one before it.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.9]) == [1, 1]
    assert statistics.holm([0.2]) == [0.2] and statistics.holm([]) == []
