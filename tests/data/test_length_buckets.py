"""Batches by length: what a step holds, and that it holds what it would have held."""

import itertools

import hypothesis
import numpy as np
import properties
import pytest
import raw_data
from hypothesis import strategies as st
from ml_collections import ConfigDict

from igerg_jax import batch as batch_lib
from igerg_jax import checks
from igerg_jax.data import length_buckets, lengths, mixtures, order, pipeline, prepare
from igerg_jax.errors import UserError
from igerg_jax.tools.show import counts


@pytest.mark.parametrize("count", [1, 2, 5, 63, 64])
def test_a_range_of_batches_is_spread_evenly(count):
    places = length_buckets.spread(count)
    np.testing.assert_array_equal(np.sort(places), np.arange(count))
    for size in range(1, count):  # the batches of a bucket: a range of numbers
        among = np.cumsum(places < size)
        assert np.abs(among - np.arange(1, count + 1) * size / count).max() < 2


@properties.examples(40)
@hypothesis.given(
    windows=st.integers(1, 3000), batch=st.integers(1, 40), seed=st.integers(0, 2**31)
)
def test_a_block_of_steps_holds_what_it_would_without_buckets(windows, batch, seed):
    bucket_of = np.random.default_rng(seed).integers(0, 3, windows)

    def bucket_at(positions):
        return bucket_of[order.examples_at(seed, positions, windows)]

    dealer = length_buckets.Dealer(bucket_at, windows, batch)
    steps = max(1, min(64, windows // batch))
    for block in (0, 1, 10**10):
        dealt = [dealer.step(block * steps + place) for place in range(steps)]
        positions = np.concatenate([step.positions_B for step in dealt])
        expected = order.positions(block, steps * batch)
        np.testing.assert_array_equal(np.sort(positions), expected)
        mixed = 0
        for step in dealt:
            buckets = bucket_at(step.positions_B)
            assert step.bucket == buckets.max()
            mixed += buckets.min() < step.bucket
        assert mixed <= 2  # one for each border between buckets
    other = length_buckets.Dealer(bucket_at, windows, batch)  # that has read no earlier step
    late = 10**10 * steps + steps - 1
    np.testing.assert_array_equal(other.step(late).positions_B, dealt[-1].positions_B)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    return raw_data.fer_zip(raw_data.meld(folder, dialogues=40), raw_data.fer_names(8))


@pytest.fixture
def words(tiny_config, raw):
    """MELD's words in batches of 4, of three sizes, none of which is rare."""
    tiny_config.data.update(dataset="meld", manual_dir=str(raw), test_split="valid")
    tiny_config.data.tokenizer.update(model_type="bpe", vocab_size=300)
    tiny_config.train.batch_size = 4
    prepared = prepare.prepare(tiny_config)
    sizes = lengths.count(prepared.split("train"), tiny_config)
    tokens = [int(np.quantile(sizes.context, q)) for q in (0.3, 0.6, 1)]
    response = int(sizes.response.max())
    tiny_config.data.update(context_tokens=tokens[2], response_tokens=response)
    tiny_config.data.length_buckets = ((tokens[0], response), (tokens[1], response))
    return tiny_config


def test_a_window_is_in_the_first_bucket_that_holds_context_and_response(tiny_config, monkeypatch):
    tiny_config.data.update(context_tokens=20, response_tokens=9)
    tiny_config.data.length_buckets = ((8, 4), (8, 6), (16, 6))
    context, response = np.array(
        [(8, 4), (0, 0), (9, 4), (8, 5), (16, 6), (17, 2), (2, 7), (99, 1), (20, 9), (99, 99)]
    ).T
    made = lengths.Counts(context, response, images=context)
    monkeypatch.setattr(length_buckets.lengths, "count", lambda split, config: made)
    found = length_buckets.numbers(None, tiny_config)
    assert found.tolist() == [0, 0, 2, 1, 2, 3, 3, 3, 3, 3]


def test_each_window_comes_once_an_epoch_in_a_batch_that_it_fits(words):
    prepared = prepare.prepare(words)
    stream, split = mixtures.streams(prepared, words)[mixtures.MAIN], prepared.split("train")
    of_W, rows_b = lengths.count(split, words), np.arange(4)
    sizes = [spec.lengths for spec in batch_lib.BatchSpec.by_length(words.data, 4)]
    shown, seen = [], set()
    steps = split.num_windows // 4
    for step in range(steps):
        _, ids_b, positions_b = pipeline.example_ids(stream, words, step, rows_b)
        bucket = stream.step(step, 4).bucket
        seen.add(bucket)
        longest = of_W.context[ids_b].max(), of_W.response[ids_b].max()
        assert longest[0] <= sizes[bucket][0] and longest[1] <= sizes[bucket][1]
        if bucket:
            smaller = sizes[bucket - 1]
            assert longest[0] > smaller[0] or longest[1] > smaller[1]
        np.testing.assert_array_equal(stream.at(positions_b)[1], ids_b)
        shown.extend(ids_b)
    assert seen == {0, 1, 2}
    assert len(set(shown)) == len(shown) == 4 * steps > split.num_windows - 4


def take(prepared, config, steps, start=0, rows_b=None):
    rows_b = np.arange(config.train.batch_size) if rows_b is None else rows_b
    return list(itertools.islice(pipeline.train_batches(prepared, config, start, rows_b), steps))


def test_hosts_and_restarts_read_the_same_sizes_and_windows(words):
    prepared = prepare.prepare(words)
    whole = take(prepared, words, 8)
    assert len({batch_lib.lengths(batch) for batch in whole}) == 3
    for batch in whole:
        spec = next(
            spec
            for spec in batch_lib.BatchSpec.by_length(words.data, 4)
            if spec.lengths == batch_lib.lengths(batch)
        )
        batch_lib.check(batch, spec)
    rows = [np.array([0, 1]), np.array([2, 3])]
    hosts = [take(prepared, words, 5, start=3, rows_b=rows_b) for rows_b in rows]
    for step in range(5):
        for name, array in whole[3 + step].items():
            joined = np.concatenate([host[step][name] for host in hosts])
            np.testing.assert_array_equal(array, joined, err_msg=f"{step} {name}")


def test_an_example_is_the_same_in_a_batch_of_any_size(words):
    """The same words at the same places, and PAD after them: as much of it as is said."""
    prepared = prepare.prepare(words)
    plain = words.copy_and_resolve_references()
    plain.data.length_buckets = ()
    stream = mixtures.streams(prepared, words)[mixtures.MAIN]
    steps = prepared.split("train").num_windows // 4
    rows = {
        position: {name: array[row] for name, array in batch.items()}
        for step, batch in enumerate(take(prepared, plain, steps))
        for row, position in enumerate(order.positions(step, 4))
    }
    padding = []
    for batches in (take(prepared, words, steps), take(prepared, plain, steps)):
        tokens = np.concatenate([b[n].ravel() for b in batches for n in ("context", "response")])
        padding.append((tokens == prepared.tokenizer.special.pad).mean())
    said = "{:.1%} padding, against {:.1%} if all had the full size".format(*padding)
    assert padding[0] < 0.7 * padding[1] and said in counts.describe(prepared, words)
    for step, batch in enumerate(take(prepared, words, steps)):
        for row, position in enumerate(stream.step(step, 4).positions_B):
            for name, array in batch.items():
                expected = rows[int(position)][name]
                found = np.zeros_like(expected)  # PAD, and the turn there
                found[tuple(map(slice, array[row].shape))] = array[row]
                np.testing.assert_array_equal(found, expected, err_msg=name)


def test_groups_of_a_mixture_share_the_size_that_the_longest_needs(words):
    """With emotions balanced; and the shares of both datasets are those of the pattern."""
    words.data.balance_emotions = 0.5
    words.data.mixtures = ConfigDict(
        {
            "faces": {"objectives": ("image_emotion",), "datasets": {"fer2013": 1}},
            "felt": {
                "objectives": ("text_emotion",),
                "datasets": {"meld": 3, "chitchat_openmoji/tiny": 1},
            },
        }
    )
    prepared = prepare.prepare(words)
    streams = mixtures.streams(prepared, words)
    steps = 12
    sizes = [spec.lengths for spec in batch_lib.BatchSpec.by_length(words.data, 4)]
    buckets = {name: [s.step(k, 4).bucket for k in range(steps)] for name, s in streams.items()}
    assert set(buckets["faces"]) == {0}  # they have no words
    assert set(buckets[""]) == {0, 1, 2} and buckets["felt"] != buckets[""]
    for step, batch in enumerate(take(prepared, words, steps)):
        size = sizes[max(each[step] for each in buckets.values())]
        for group in ("", "faces", "felt"):
            assert batch_lib.lengths(batch_lib.group_of(batch, group)) == size
    plain = mixtures.Stream(*(getattr(streams["felt"], n) for n in ("splits", "orders", "pattern")))
    block = streams["felt"].dealer._steps
    found = np.concatenate([streams["felt"].step(k, 4).positions_B for k in range(block)])
    expected = plain.at(order.positions(0, 4 * block))
    np.testing.assert_array_equal(plain.at(np.sort(found)), expected)


@pytest.mark.parametrize(
    "buckets",
    [
        (16,),
        ((16,),),
        ((1, 8),),
        ((16, 8.0),),
        ("ab",),
        ((20, 8), (16, 10)),
        ((16, 8), (16, 8)),
        ((40, 28),),
        ((41, 8),),
    ],
)
def test_what_is_no_size_of_a_batch_is_refused(buckets, tiny_config):
    tiny_config.data.update(context_tokens=40, response_tokens=28)
    for good in ((), ((16, 8),), [[16, 8], [16, 10]], ((40, 8), (40, 27))):
        tiny_config.data.length_buckets = tuple(good)
        checks.check_model(tiny_config)
    tiny_config.data.length_buckets = buckets
    with pytest.raises(UserError, match=r"data\.length_buckets=.*pairs of .*\(40, 28\); \(\) "):
        checks.check_model(tiny_config)


@pytest.mark.parametrize("weight", ["preference_weight", "policy_weight"])
def test_responses_that_the_model_draws_are_not_cut(weight, tiny_config):
    tiny_config.data.length_buckets = ((8, 4),)
    tiny_config.objectives.emotional_response[weight] = 1.0
    with pytest.raises(UserError, match=r"data\.length_buckets=\(\(8, 4\),\) would cut"):
        checks.check_step(tiny_config)
