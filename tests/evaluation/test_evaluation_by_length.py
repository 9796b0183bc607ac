"""With `data.length_buckets`, evaluation has batches of several sizes, and finds the same."""

import jax
import numpy as np
import pytest
from evaluated import EXAMPLES, World, make_config

from igerg_jax import batch as batch_lib
from igerg_jax.data import lengths
from igerg_jax.data.prepare import prepare
from igerg_jax.evaluation.inference import in_order


@pytest.fixture(scope="module")
def worlds(data_dir, tmp_path_factory):
    """Two evaluations of one model: with batches of one size, and of two."""
    sizes = dict(data__context_tokens=80, data__response_tokens=60, model__text__max_positions=80)
    sizes |= dict(evaluate__batch_size=4)
    config = make_config(data_dir, **sizes)
    counts = lengths.count(prepare(config).split("test"), config)
    shorter = tuple(int(np.quantile(x, 0.7)) for x in (counts.context, counts.response))
    by_length = make_config(data_dir, **sizes, data__length_buckets=(shorter,))
    return [World(each, tmp_path_factory.mktemp("run")) for each in (config, by_length)]


def test_each_window_comes_once_in_a_batch_that_it_fits(worlds):
    plain, world = worlds
    split, data = world.prepared.split("test"), world.setup.config.data
    ids = np.random.default_rng(0).permutation(EXAMPLES)
    counts, sizes, places = lengths.count(split, world.setup.config), [], []
    for places_R, batch, rows_B in world.evaluator.inference.batches(split, ids):
        context, response = batch_lib.lengths(batch)
        windows = ids[places_R]
        assert rows_B.tolist() == [*windows, *[0] * (len(rows_B) - len(windows))]
        assert (np.minimum(counts.context[windows], data.context_tokens) <= context).all()
        assert (np.minimum(counts.response[windows], data.response_tokens) <= response).all()
        sizes.append((context, response))
        places.append(places_R)
    assert sizes[0] == data.length_buckets[0] < sizes[-1] == batch_lib.lengths(batch)
    np.testing.assert_array_equal(in_order(places, [ids[rows] for rows in places]), ids)
    alone = [batch_lib.lengths(b) for _, b, _ in plain.evaluator.inference.batches(split, ids)]
    assert {*alone} == {(data.context_tokens, data.response_tokens)}


def test_every_finding_is_the_same(worlds):
    plain, by_length = worlds
    assert plain.out.keys() == by_length.out.keys()
    jax.tree.map(same, plain.out, by_length.out)
    jax.tree.map(same, plain.samples, by_length.samples)
    jax.tree.map(same, plain.following, by_length.following)
    assert len({row["generated"] for row in plain.samples}) > 1
    found, windows = (w.evaluator.metrics(w.params, "test", generate=True) for w in worlds)
    jax.tree.map(same, found.windows, windows.windows)
    assert len({*found.windows["nll"]}) > 1


def test_answers_to_emotions_that_are_asked_for_and_fluency_are_the_same(worlds):
    asked, other = (w.evaluator.asked(w.params, "test") for w in worlds)
    jax.tree.map(same, asked, other)
    fluency, other = (w.evaluator.fluency(w.params, "test", 9) for w in worlds)
    jax.tree.map(same, fluency, other)


def test_no_sample_is_asked_for(worlds):
    assert worlds[1].evaluator.samples(worlds[1].params, "test", 0) == []


def same(a, b):
    assert a == (pytest.approx(b, rel=1e-3, abs=2e-4) if isinstance(a, float) else b)
