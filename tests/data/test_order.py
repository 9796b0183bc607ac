"""The order of examples: a permutation an epoch, without a seam, the same on any hosts."""

import hypothesis
import numpy as np
import properties
import pytest
from hypothesis import strategies as st

from igerg_jax.data import order

SIZES = st.integers(1, 2**40)
SEEDS = st.integers(0, 2**31)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_an_epoch_is_a_permutation(size):
    for epoch in (0, 1, 12345):
        found = order.permute(7, epoch, np.arange(size), size)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_seeds_and_epochs_have_their_own_permutation():
    values = np.arange(500)
    found = [order.permute(s, e, values, 500) for s, e in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    for i, one in enumerate(found):
        assert np.mean(one == values) < 0.05
        for other in found[i + 1 :]:
            assert np.mean(one == other) < 0.05


def test_a_permutation_does_not_keep_neighbours_or_halves_together():
    found = order.permute(0, 0, np.arange(10_000), 10_000)
    assert np.mean(np.abs(np.diff(found)) <= 2) < 0.005  # by chance: 0.0004
    in_lower_half = found[:5000] < 5000
    assert abs(in_lower_half.mean() - 0.5) < 0.04
    assert abs(np.corrcoef(np.arange(10_000), found)[0, 1]) < 0.04


def test_epochs_chain_without_a_seam():
    size, batch_size = 50, 16  # 25 batches hold 8 epochs; most epochs end inside a batch
    sequence = np.concatenate(
        [order.examples_at(3, order.positions(k, batch_size), size) for k in range(25)]
    )
    for epoch in sequence.reshape(8, size):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def test_a_batch_may_be_longer_than_an_epoch():
    found = order.examples_at(0, order.positions(0, 12), 5)
    assert np.bincount(found, minlength=5).min() == 2


def test_a_step_needs_no_step_before_it():
    """At a step no loop could reach, and only as many values as there are rows are computed."""
    step, size = 10**13, 5_600_000
    found = order.examples_at(1, order.positions(step, 8), size)
    positions = order.positions(step, 8)
    assert positions[0] == 8 * step
    one_by_one = [order.examples_at(1, positions[i : i + 1], size)[0] for i in range(8)]
    np.testing.assert_array_equal(found, one_by_one)


def test_uniforms_are_uniform_stateless_and_broadcast():
    found = order.uniforms(0, np.arange(2000)[:, None], np.arange(4))
    assert found.shape == (2000, 4)
    assert found.min() >= 0 and found.max() < 1
    counts = np.histogram(found, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 800).max() < 120  # 4.5 standard deviations
    assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.1
    np.testing.assert_array_equal(found[17:19, 2], order.uniforms(0, np.array([17, 18]), 2))
    assert not np.isin(order.uniforms(1, np.arange(2000), 0), found[:, 0]).any()


def test_no_examples_is_an_error():
    with pytest.raises(ValueError, match="num_examples"):
        order.examples_at(0, order.positions(0, 4), 0)


@properties.examples(60)
@hypothesis.given(size=SIZES, seed=SEEDS, epoch=SEEDS, data=st.data())
def test_no_two_examples_share_a_place_in_an_epoch_of_any_size(size, seed, epoch, data):
    values = np.array(data.draw(st.lists(st.integers(0, size - 1), unique=True, min_size=1)))
    found = order.permute(seed, epoch, values, size)
    assert found.min() >= 0 and found.max() < size
    assert len(set(found.tolist())) == len(values)


@properties.examples(60)
@hypothesis.given(
    size=SIZES, seed=SEEDS, step=st.integers(0, 2**40), batch=st.integers(1, 64), data=st.data()
)
def test_hosts_that_share_a_batch_in_any_way_read_what_one_host_reads(
    size, seed, step, batch, data
):
    positions = order.positions(step, batch)
    hosts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=batch, max_size=batch)))
    together = np.empty_like(positions)
    for host in range(4):
        together[hosts == host] = order.examples_at(seed, positions[hosts == host], size)
    np.testing.assert_array_equal(together, order.examples_at(seed, positions, size))
