"""Decoding with a cache against the plain forward pass, and beam search against slow ones."""

import functools
import itertools
import re

import contributing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax import batch as batch_lib
from igerg_jax import random_keys
from igerg_jax.decoding import beam_search, limits, search, strategies, stream
from igerg_jax.decoding.guidance import Guidance, start_guided
from igerg_jax.decoding.limits import Limits
from igerg_jax.errors import UserError
from igerg_jax.models import igerg
from igerg_jax.parallel import sharding
from igerg_jax.setup import build_model, mesh_context
from igerg_jax.training import train_state

V, T, ROWS = 14, 6, 16  # nine words: rows end at many lengths, and beams often meet EOS
EOS, PAD = small.SPECIAL.eos, small.SPECIAL.pad
NEVER = sorted({small.SPECIAL.pad, small.SPECIAL.bos, small.SPECIAL.unk, small.SPECIAL.mask})
KEY = jax.random.key(7)


class World:
    """One decoder, what it attends to, and every response that a test asked for.

    The encoder's output is drawn at random, far apart from row to row: rows answer differently.
    """

    def __init__(self):
        self.config = small.make_config()
        self.model = build_model(self.config, V, small.SPECIAL)
        batch = small.make_batch(self.config, batch_size=1)
        self.params = small.make_params(self.model, batch, spread=0.5)
        rng = np.random.default_rng(0)
        hidden = 2 * rng.standard_normal((ROWS, 5, self.config.model.text.width))
        mask = np.arange(5) < rng.integers(1, 6, (ROWS, 1))
        self.encoded = igerg.Encoded(hidden.astype(np.float32), mask, None, None, None)
        self._forward = jax.jit(self._log_p)

    def _log_p(self, encoded, tokens_BxT):
        inputs = igerg.shift_right(tokens_BxT, small.SPECIAL)
        given = inputs, encoded.hidden_BxLxD, encoded.mask_BxL, None
        hidden = self.model.apply({"params": self.params}, *given, method="decode")
        return jax.nn.log_softmax(hidden @ self.params["token_embedding"].T)

    def log_p(self, tokens_BxT, rows=slice(None)) -> np.ndarray:
        """[B, T, V]: at t, the log-probabilities after reading tokens 0..t-1 of those rows."""
        encoded = jax.tree.map(lambda x: x[rows], self.encoded)
        return np.asarray(self._forward(encoded, jnp.asarray(tokens_BxT)))

    @functools.cache  # noqa: B019 - the world lives as long as the module
    def respond(self, strategy, max_tokens=T, no_repeat_ngram=0) -> search.Responses:
        return self.run(strategy, self.encoded, np.arange(ROWS), KEY, max_tokens, no_repeat_ngram)

    def run(
        self, strategy, encoded, row_B, rng, max_tokens=T, no_repeat_ngram=0
    ) -> search.Responses:
        jitted = self._jitted(strategy, max_tokens, no_repeat_ngram)
        return jax.device_get(jitted(self.params, encoded, row_B, rng))

    @functools.cache  # noqa: B019
    def _jitted(self, strategy, max_tokens, no_repeat_ngram):
        rules = Limits(max_tokens, no_repeat_ngram)

        def run(params, encoded, row_B, rng):
            started = stream.start(self.model, params, stream.Source(encoded), max_tokens)
            if isinstance(strategy, strategies.Beam):
                found = beam_search.beam_search(started, small.SPECIAL, strategy, rules)
                return search.Responses(*(leaf[:, 0] for leaf in found))
            keys_B = random_keys.row_keys(rng, row_B)
            return search.decode_rows(started, small.SPECIAL, keys_B[:, None], strategy, rules)

        return jax.jit(run)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


GREEDY = strategies.Greedy()
SAMPLE = strategies.Sample(temperature=1.3, top_k=8, top_p=0.95, candidates=1, length_penalty=1.0)
BEAM = strategies.Beam(beams=4, length_penalty=1.0)
GUIDANCE = Guidance(guidance=1.5, guidance_floor=0.0)


def lengths(tokens_BxT) -> np.ndarray:
    """Tokens up to EOS, counted."""
    return (np.asarray(tokens_BxT) == EOS).argmax(1) + 1


def allowed(log_p_V, position, max_tokens=T) -> np.ndarray:
    """What may be chosen, in the words of the module's docstring."""
    out = np.full(V, -np.inf)
    ids = [EOS] if position == max_tokens - 1 else [i for i in range(V) if i not in NEVER]
    out[ids] = log_p_V[ids]
    return out


@pytest.mark.parametrize("strategy", [GREEDY, SAMPLE, BEAM], ids=["greedy", "sample", "beam"])
def test_responses_are_well_formed(world, strategy):
    """One EOS, PAD after it and nowhere else, no special id, and the scores are the model's."""
    got = world.respond(strategy)
    assert got.tokens_BxT.shape == (ROWS, T) and got.tokens_BxT.dtype == np.int32
    length_B = lengths(got.tokens_BxT)
    for tokens, length in zip(got.tokens_BxT, length_B, strict=True):
        assert tokens[length - 1] == EOS and not np.isin(tokens[:length], NEVER).any()
        assert (tokens[: length - 1] != EOS).all() and (tokens[length:] == PAD).all()
    log_p_BxTxV = world.log_p(got.tokens_BxT)
    picked_BxT = np.take_along_axis(log_p_BxTxV, got.tokens_BxT[..., None], axis=-1)[..., 0]
    inside_BxT = np.arange(T) < length_B[:, None]
    total_B = (picked_BxT * inside_BxT).sum(1)
    np.testing.assert_allclose(got.log_probability_B, total_B, rtol=1e-4, atol=1e-4)
    divisor_B = length_B if strategy == BEAM else 1
    np.testing.assert_allclose(got.score_B, total_B / divisor_B, rtol=1e-4, atol=1e-4)


def test_greedy_is_the_argmax_of_the_full_forward_pass(world):
    tokens_BxT = world.respond(GREEDY).tokens_BxT
    log_p_BxTxV = world.log_p(tokens_BxT)
    length_B = lengths(tokens_BxT)
    assert len(set(length_B)) > 2, "rows should end at different lengths"
    wanted_special = 0
    for tokens, log_p_TxV, length in zip(tokens_BxT, log_p_BxTxV, length_B, strict=True):
        for t in range(length):
            assert tokens[t] == allowed(log_p_TxV[t], t).argmax()
            wanted_special += log_p_TxV[t].argmax() in NEVER
    assert wanted_special, "no special id was ever likeliest: the test shows nothing"


def test_one_beam_is_greedy(world):
    one = world.respond(strategies.Beam(beams=1, length_penalty=1.0))
    np.testing.assert_array_equal(one.tokens_BxT, world.respond(GREEDY).tokens_BxT)


def slow_beam_search(world, row, beams, penalty) -> tuple[list[int], float]:
    """Lists and loops, and a full forward pass a step."""
    live, ended = [([], 0.0)], []
    for position in range(T):
        prefixes = np.full((beams, T), PAD, np.int32)
        for i, (tokens, _) in enumerate(live):
            prefixes[i, : len(tokens)] = tokens
        log_p_KxV = world.log_p(prefixes, np.full(beams, row))[: len(live), position]
        found = [
            ([*tokens, word], total + gain)
            for (tokens, total), log_p_V in zip(live, log_p_KxV, strict=True)
            for word, gain in enumerate(allowed(log_p_V, position))
            if gain > -np.inf
        ]
        found = sorted(found, key=lambda hypothesis: -hypothesis[1])[: 2 * beams]
        ended += [
            (tokens, total / len(tokens) ** penalty)
            for tokens, total in found[:beams]
            if tokens[-1] == EOS
        ]
        live = [(tokens, total) for tokens, total in found if tokens[-1] != EOS][:beams]
        ended = sorted(ended, key=lambda hypothesis: -hypothesis[1])[:beams]
        if not live or (
            len(ended) == beams and live[0][1] / (position + 1) ** penalty <= ended[-1][1]
        ):
            break
    return ended[0]


@pytest.mark.parametrize(("beams", "penalty"), [(4, 1.0), (3, 2.0)])
def test_beam_search_is_the_slow_one(world, beams, penalty):
    got = world.respond(strategies.Beam(beams, penalty))
    for row in range(ROWS):
        tokens, score = slow_beam_search(world, row, beams, penalty)
        np.testing.assert_array_equal(got.tokens_BxT[row, : len(tokens)], tokens)
        np.testing.assert_allclose(got.score_B[row], score, rtol=1e-4)


def test_enough_beams_find_the_best_of_all_responses(world):
    """With as many beams as there are responses, nothing is pruned: the search is exact."""
    longest = 3
    words = [i for i in range(V) if i not in NEVER and i != EOS]
    every = [[*start, EOS] for n in range(longest) for start in itertools.product(words, repeat=n)]
    padded = np.array([tokens + [PAD] * (longest - len(tokens)) for tokens in every], np.int32)
    got = world.respond(strategies.Beam(len(every), 1.0), longest)
    picked = np.array([len(tokens) for tokens in every])
    inside = np.arange(longest) < picked[:, None]
    for row in range(ROWS):
        log_p = world.log_p(padded, np.full(len(every), row))
        log_p = np.take_along_axis(log_p, padded[..., None], axis=-1)[..., 0]
        score = (log_p * inside).sum(1) / picked
        np.testing.assert_array_equal(got.tokens_BxT[row], padded[score.argmax()])
        np.testing.assert_allclose(got.score_B[row], score.max(), rtol=1e-4)


def test_more_beams_find_better_responses(world):
    """Not true of every row of every model, but of most rows of any."""
    greedy = world.respond(GREEDY)
    greedy_B = greedy.log_probability_B / lengths(greedy.tokens_BxT)
    beam_B = world.respond(BEAM).score_B
    assert np.mean(beam_B >= greedy_B - 1e-5) > 0.9 and beam_B.mean() > greedy_B.mean()


@pytest.mark.parametrize("strategy", [SAMPLE, BEAM], ids=["sample", "beam"])
def test_a_row_does_not_depend_on_the_others(world, strategy):
    """Half of the rows move to other places among strangers, and say what they said."""
    rng = np.random.default_rng(3)
    place = rng.permutation(ROWS)
    kept = np.arange(ROWS) < ROWS // 2
    strange = rng.standard_normal(world.encoded.hidden_BxLxD.shape).astype(np.float32)
    moved = world.encoded._replace(
        hidden_BxLxD=np.where(kept[:, None, None], world.encoded.hidden_BxLxD, strange)[place],
        mask_BxL=world.encoded.mask_BxL[place],
    )
    row_B = np.where(kept, np.arange(ROWS), 1000 + np.arange(ROWS))[place]
    before = world.respond(strategy).tokens_BxT
    after = world.run(strategy, moved, row_B, KEY).tokens_BxT[np.argsort(place)]
    np.testing.assert_array_equal(before[kept], after[kept])
    assert (before[~kept] != after[~kept]).any()


def test_samples_differ_with_the_key_and_the_row(world):
    one = world.respond(SAMPLE).tokens_BxT
    other = world.run(SAMPLE, world.encoded, np.arange(ROWS), jax.random.key(8)).tokens_BxT
    assert (one != other).any()
    same = jax.tree.map(lambda x: np.repeat(x[:1], ROWS, axis=0), world.encoded)
    rows = world.run(SAMPLE, same, np.arange(ROWS), KEY).tokens_BxT
    assert len({tuple(tokens) for tokens in rows.tolist()}) > 1


@pytest.mark.parametrize("strategy", [GREEDY, BEAM], ids=["greedy", "beam"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_bfloat16_caches_and_float32_scores(strategy, norm_first):
    """The loop's state keeps its types (a while_loop insists), unrolled layers or scanned."""
    config = small.make_config(
        model__compute_dtype="bfloat16",
        model__text__norm_first=norm_first,
        model__text__scan_layers=norm_first,
        model__text__decoder_layers=2,
    )
    model, batch = small.make_model(config), small.make_batch(config)
    params = jax.eval_shape(lambda: model.init(KEY, batch))["params"]
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    params = jax.eval_shape(lambda p: small.nn.meta.unbox(p), params)

    def run(params):
        settings = search.Settings(strategy, Limits(T, 3), GUIDANCE)
        return search.generate(model, params, batch, KEY, settings)

    traced, result = jax.make_jaxpr(run, return_shape=True)(params)
    loops = [eqn for eqn in traced.jaxpr.eqns if eqn.primitive.name == "while"]
    carried = [var.aval for var in loops[-1].outvars]
    caches = [aval for aval in carried if aval.ndim >= 4]
    assert caches and all(aval.dtype == jnp.bfloat16 for aval in caches)
    assert result.score_B.dtype == jnp.float32


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_comes_twice(n):
    """Against a walk over the response so far, at every position and for any shape."""
    tokens_xT = np.random.default_rng(n).integers(5, 9, (3, 4, 10))
    flat = np.zeros((3, 4, V), np.float32)
    allowed = jax.jit(limits.allowed, static_argnums=(3, 4))
    for position in range(9):
        got = np.asarray(allowed(flat, tokens_xT, position, small.SPECIAL, Limits(10, n)))
        for row in np.ndindex(3, 4):
            said = tokens_xT[row][:position].tolist()
            grams = {tuple(said[i : i + n]) for i in range(len(said) - n + 1)}
            tail = said[len(said) - n + 1 :] if n <= len(said) + 1 else None
            banned = {i for i in range(V) if tail is not None and (*tail, i) in grams}
            assert {i for i in range(5, V) if np.isneginf(got[row][i])} == banned


@pytest.mark.parametrize("strategy", [GREEDY, BEAM], ids=["greedy", "beam"])  # each search loop
def test_responses_obey_the_ngram_rule(world, strategy):
    free, bound = (
        [[token for token in row if token not in (EOS, small.SPECIAL.pad)] for row in got.tolist()]
        for got in (world.respond(strategy, T, n).tokens_BxT for n in (0, 1))
    )
    assert any(len(set(row)) < len(row) for row in free), "or the rule has nothing to do"
    assert all(len(set(row)) == len(row) for row in bound)


def whole_run(world, mesh, devices=None):
    """(setup, the arguments of a `Respond`) for a real batch on a mesh."""
    config = small.make_config(train__batch_size=ROWS)
    config.mesh.update(mesh)
    config.generate.update(max_tokens=T, strategy="sample", no_repeat_ngram=0, **vars(SAMPLE))
    setup = train_state.set_up_training(config, V, small.SPECIAL, devices)
    batch = batch_lib.synthetic(setup.spec, small.SPECIAL, V, seed=1)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_state.params)
    params = jax.device_put(world.params, shardings)
    rng = jax.device_put(KEY, sharding.replicated(setup.mesh))
    return setup, (params, sharding.to_devices(batch, sharding.batch_sharding(setup.mesh)), rng)


def test_respond_is_the_same_on_any_mesh_and_traced_once(world, monkeypatch):
    traces, plain = [], search.generate
    monkeypatch.setattr(search, "generate", lambda *given: traces.append(1) or plain(*given))
    setup, arguments = whole_run(world, {"fsdp": 2, "tensor": 2})
    respond = search.Respond(setup)
    sharded = [respond(*arguments) for _ in range(2)][-1]
    assert len(traces) == 1 and sharded.tokens_BxT.is_fully_replicated
    setup, arguments = whole_run(world, {}, jax.devices()[:1])
    alone = search.Respond(setup)(*arguments)
    np.testing.assert_array_equal(sharded.tokens_BxT, alone.tokens_BxT)
    np.testing.assert_allclose(sharded.score_B, alone.score_B, rtol=1e-4)
    assert len({tuple(tokens) for tokens in np.asarray(alone.tokens_BxT).tolist()}) > 1


def test_rows_stay_on_their_devices(world):
    """While decoding, devices that hold different rows exchange one thing: whether to go on."""
    setup, (params, _, _) = whole_run(world, {})
    encoded = {"hidden": world.encoded.hidden_BxLxD, "mask": world.encoded.mask_BxL}
    encoded = sharding.to_devices(encoded, sharding.batch_sharding(setup.mesh))

    def run(params, hidden, mask):
        encoded = igerg.Encoded(hidden, mask, None, None, None)
        pair = stream.Source(encoded), stream.Source(encoded)
        started = start_guided(setup.model, params, pair, GUIDANCE, T)
        return beam_search.beam_search(started, small.SPECIAL, BEAM, Limits(T, 0))

    with mesh_context(setup):
        compiled = jax.jit(run).lower(params, encoded["hidden"], encoded["mask"]).compile()
    exchange = r"= (\S+) (?:all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\("
    assert re.findall(exchange, compiled.as_text()) == ["pred[]"]
    found = compiled(params, encoded["hidden"], encoded["mask"])
    np.testing.assert_array_equal(found.tokens_BxKxT[:, 0], world.respond(BEAM).tokens_BxT)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_tokens": 17}, "max_positions=16"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram=-1"),
        ({"strategy": "nucleus"}, "'nucleus' is not one of greedy, sample, beam"),
        ({"strategy": "sample", "temperature": 0.0}, "temperature=0.0"),
        ({"strategy": "sample", "top_p": 1.5}, "top_p=1.5"),
        ({"strategy": "sample", "top_k": -1}, "top_k=-1"),
        ({"strategy": "sample", "candidates": 0}, "candidates=0"),
        ({"strategy": "beam", "beams": 0}, "beams=0"),
    ],
)
def test_wrong_settings_are_named(changes, named):
    config = small.make_config()
    config.generate.update(max_tokens=T)
    config.generate.update(changes)
    with pytest.raises(UserError, match=re.escape(named)):
        search.Settings.of(config)


def test_a_strategy_is_what_the_config_says():
    config = small.make_config()
    config.generate.update(max_tokens=T, strategy="sample", top_k=3, top_p=0.5, temperature=0.25)
    config.generate.update(candidates=4, length_penalty=0.7)
    assert strategies.strategy(config) == strategies.Sample(0.25, 3, 0.5, 4, 0.7)
    config.generate.update(strategy="beam", beams=2, length_penalty=0.5)
    assert strategies.strategy(config) == strategies.Beam(2, 0.5)
    config.generate.strategy = "greedy"
    assert strategies.strategy(config) == GREEDY


def test_a_new_strategy_is_one_class_and_one_line(world, monkeypatch):
    (code,) = contributing.examples("a decoding strategy")
    names = dict(vars(strategies))
    exec(code, names)
    monkeypatch.setitem(strategies.STRATEGIES, "min_p", names["MinP"])
    config = small.make_config()
    config.generate.update(max_tokens=T, strategy="min_p", min_p=0.25)
    chosen = search.Settings.of(config).strategy
    tokens_BxT = world.respond(chosen).tokens_BxT
    assert (tokens_BxT != world.respond(GREEDY).tokens_BxT).any()
    assert (tokens_BxT == EOS).sum(1).tolist() == [1] * ROWS
    config.generate.min_p = 1.5
    with pytest.raises(UserError, match=r"min_p=1.5 must be at least 0 and at most 1"):
        search.Settings.of(config)


@pytest.mark.parametrize("penalty", [-0.5, 0.0, 0.5, 1.0, 2.0])
def test_a_row_goes_on_while_a_live_beam_can_still_win(penalty):
    """Against every length that the best live beam may reach, each further token being certain."""
    rng = np.random.default_rng(0)
    seen = set()
    for length in range(1, T):
        live_BxK = -np.sort(rng.uniform(1, 9, (200, 2)).astype(np.float32))
        best_B = -rng.uniform(0.1, 4, 200).astype(np.float32)
        # One hypothesis has ended, and one place is free: only the best one counts.
        score_BxK = np.stack([best_B, np.full(200, -np.inf, np.float32)], axis=1)
        ended = beam_search.Hypotheses(None, None, jnp.asarray(score_BxK))
        done_B = beam_search.is_done(ended, live_BxK, jnp.int32(length), penalty, T)
        reachable = [live_BxK[:, 0] / n**penalty for n in range(length + 1, T + 1)]
        np.testing.assert_array_equal(done_B, best_B >= np.max(reachable, axis=0))
        seen |= set(np.asarray(done_B).tolist())
    assert seen == {True, False}
