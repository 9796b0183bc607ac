"""Sampling: filters, the distribution that is drawn from, and the best of several candidates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax import batch as batch_lib
from igerg_jax import random_keys
from igerg_jax.decoding import search, strategies
from igerg_jax.decoding.guidance import Guidance, start_guided
from igerg_jax.decoding.limits import Limits
from igerg_jax.setup import build_model

V, T, ROWS = 14, 10, 16
KEY = jax.random.key(7)
GUIDANCE = Guidance(1.0, 0.0)
GREEDY = strategies.Greedy()
SAMPLE = strategies.Sample(temperature=1.3, top_k=8, top_p=0.95, candidates=1, length_penalty=1.0)


@pytest.fixture(scope="module")
def log_p_BxV():
    return jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(0), (50, 30)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_top_p_keeps_the_smallest_set_that_reaches_p(log_p_BxV, p):
    kept_BxV = np.isfinite(
        dataclasses.replace(SAMPLE, temperature=1.0, top_k=0, top_p=p).filtered(log_p_BxV)
    )
    for probabilities, kept in zip(np.exp(log_p_BxV), kept_BxV, strict=True):
        mass = probabilities[kept]
        assert mass.sum() >= p - 1e-5 and mass.sum() - mass.min() < p + 1e-5
        assert mass.min() >= probabilities[~kept].max(initial=0.0)


def test_top_k_keeps_k_and_temperature_flattens(log_p_BxV):
    logits_BxV = np.asarray(
        dataclasses.replace(SAMPLE, temperature=2.0, top_k=3, top_p=1.0).filtered(log_p_BxV)
    )
    kept_BxV = np.isfinite(logits_BxV)
    assert (kept_BxV.sum(1) == 3).all()
    np.testing.assert_allclose(logits_BxV[kept_BxV], np.asarray(log_p_BxV)[kept_BxV] / 2, rtol=1e-6)


def test_samples_follow_the_filtered_distribution(log_p_BxV):
    strategy, draws = dataclasses.replace(SAMPLE, temperature=1.5, top_k=6, top_p=0.9), 20_000
    keys = jax.random.split(KEY, draws)
    tokens = strategy.choose(jnp.tile(log_p_BxV[:1], (draws, 1)), keys)
    found_V = np.bincount(tokens, minlength=30) / draws
    expected_V = np.asarray(jax.nn.softmax(strategy.filtered(log_p_BxV[:1]))[0])
    np.testing.assert_allclose(found_V, expected_V, atol=5 * 0.5 / draws**0.5)
    assert (found_V[expected_V == 0] == 0).all()


def test_top_k_of_one_is_greedy(log_p_BxV):
    one = dataclasses.replace(SAMPLE, top_k=1)
    keys = jax.random.split(KEY, len(log_p_BxV))
    np.testing.assert_array_equal(one.choose(log_p_BxV, keys), GREEDY.choose(log_p_BxV, keys))


def test_a_candidate_that_was_cut_is_kept_only_where_all_were():
    """Three rows of two candidates; EOS is in the last place where it was forced."""
    pad, eos = small.SPECIAL.pad, small.SPECIAL.eos
    ended, cut = [5, 5, eos, pad], [5, 5, 5, eos]
    decoded = search.Responses(
        tokens_BxT=jnp.array([cut, ended, ended, cut, cut, cut]),
        log_probability_B=jnp.array([-1.0, -8.0, -8.0, -1.0, -6.0, -4.0]),
        score_B=jnp.zeros(6),
    )
    kept = search.best_candidates(decoded, 2, 1.0, small.SPECIAL)
    np.testing.assert_array_equal(kept.log_probability_B, [-8, -8, -4])
    np.testing.assert_allclose(kept.score_B, [-8 / 3, -8 / 3, -1])
    np.testing.assert_array_equal(kept.tokens_BxT, [ended, ended, cut])


def test_the_likeliest_of_several_candidates_is_kept():
    """Against candidates that are sampled one by one, with the same keys, and ranked in NumPy."""
    count, penalty = 5, 0.7
    config = small.make_config()
    model = build_model(config, V, small.SPECIAL)
    spec = batch_lib.BatchSpec.of(config.data, ROWS)
    batch = batch_lib.synthetic(spec, small.SPECIAL, V, seed=3)
    params = small.make_params(model, batch, spread=0.4)
    keys_BxK = jax.vmap(lambda key: jax.random.split(key, count))(
        random_keys.row_keys(KEY, jnp.arange(ROWS))
    )

    def respond(strategy):
        settings = search.Settings(strategy, Limits(T, 0), GUIDANCE)
        run = lambda params: search.generate(model, params, batch, KEY, settings)  # noqa: E731
        return jax.device_get(jax.jit(run)(params))

    several = respond(dataclasses.replace(SAMPLE, candidates=count, length_penalty=penalty))

    @jax.jit
    def one_by_one(params, keys_KxB):
        pair = search.sources(model, params, batch, None, guided=True)
        started = start_guided(model, params, pair, GUIDANCE, T)
        return jax.lax.map(
            lambda keys_Bx1: search.decode_rows(
                started, small.SPECIAL, keys_Bx1, SAMPLE, Limits(T, 0)
            ),
            keys_KxB[..., None],
        )

    drawn = jax.device_get(one_by_one(params, keys_BxK.T))
    tokens_KxBxT, log_p_KxB, _ = drawn
    length_KxB = (tokens_KxBxT != small.SPECIAL.pad).sum(-1)
    score_KxB = log_p_KxB / length_KxB**penalty
    cut_KxB = tokens_KxBxT[..., -1] != small.SPECIAL.pad  # EOS was forced
    ranked_KxB = np.where(cut_KxB & ~cut_KxB.all(0), -np.inf, score_KxB)
    best_B, rows = ranked_KxB.argmax(0), np.arange(ROWS)
    assert len(set(best_B)) > 2, "the same candidate always wins: the test shows nothing"
    assert (best_B != log_p_KxB.argmax(0)).any(), "the length does not matter"
    np.testing.assert_array_equal(several.tokens_BxT, tokens_KxBxT[best_B, rows])
    np.testing.assert_allclose(several.score_B, score_KxB[best_B, rows], rtol=1e-4)
    np.testing.assert_allclose(several.log_probability_B, log_p_KxB[best_B, rows], rtol=1e-4)
