"""MMI re-ranking against lists and loops, in a language so small that all responses are known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax.decoding import beam_search, reranking, search, strategies, stream
from igerg_jax.decoding.guidance import Guidance
from igerg_jax.decoding.limits import Limits
from igerg_jax.decoding.reranking import Backward, Reranking, load, rerank
from igerg_jax.errors import UserError
from igerg_jax.models import igerg
from igerg_jax.run.checkpoint import Checkpoints
from igerg_jax.setup import build_model
from igerg_jax.training import train_state

V, T, ROWS = 10, 3, 6
EOS, PAD = small.SPECIAL.eos, small.SPECIAL.pad
WORDS = [i for i in range(V) if i not in vars(small.SPECIAL).values()]
RESPONSES = [[*words, EOS] for n in range(T) for words in itertools.product(WORDS, repeat=n)]
BEAM = strategies.Beam(beams=len(RESPONSES), length_penalty=1.0)
WEIGHT = 0.2


class World:
    """A model, another one as its backward model, and a batch."""

    def __init__(self):
        config = small.make_config()
        self.model = build_model(config, V, small.SPECIAL)
        self.batch = small.make_batch(config, batch_size=ROWS)
        for name in ("context", "response"):
            ids = self.batch[name]
            self.batch[name] = np.where(ids < V, ids, WORDS[0] + ids % len(WORDS)).astype(np.int32)
        make = functools.partial(small.make_params, self.model, self.batch, spread=0.4)
        self.params, self.backward_params = make(seed=0), make(seed=1)

    def backward(self, weight: float) -> Backward:
        return Backward(self.model, self.backward_params, weight)

    @functools.cached_property
    def hypotheses(self) -> beam_search.Hypotheses:
        """Of a search that keeps everything."""

        def run(params):
            (source,) = search.sources(self.model, params, self.batch, None, False)
            started = stream.start(self.model, params, source, T)
            return beam_search.beam_search(started, small.SPECIAL, BEAM, Limits(T, 0), n_best=True)

        return jax.device_get(jax.jit(run)(self.params))

    def slow_log_p(self, response: list[int], context: list[int]) -> float:
        """log p(context | response), without padding: one pass for each pair."""
        inputs = [small.SPECIAL.decoder_start, *context[:-1]]
        given = (np.array([ids], np.int32) for ids in (response, inputs))
        logits_TxV = np.asarray(self._logits(self.backward_params, *given), np.float64)
        log_p_TxV = logits_TxV - np.log(np.exp(logits_TxV).sum(1, keepdims=True))
        return float(log_p_TxV[np.arange(len(context)), context].sum())

    @functools.cached_property
    def _logits(self):
        def logits(params, response_1xT, inputs_1xS):
            apply = functools.partial(self.model.apply, {"params": params})
            real, turn = jnp.ones_like(response_1xT, bool), jnp.zeros_like(response_1xT)
            words = igerg.TextSide(response_1xT, turn, real)
            encoded = apply(None, words, method="encode")
            arguments = inputs_1xS, encoded.hidden_BxLxD, encoded.mask_BxL, None
            return apply(*arguments, method="decode")[0] @ params["token_embedding"].T

        return jax.jit(logits)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def spoken(tokens) -> list[int]:
    return [int(token) for token in tokens if token != PAD]


@pytest.fixture(scope="module")
def by_hand(world) -> dict[tuple[int, tuple[int, ...]], float]:
    """{(row, response): log p(context | response)} of the first rows."""
    return {
        (row, tuple(response)): world.slow_log_p(response, spoken(world.batch["context"][row]))
        for row in range(2)
        for response in RESPONSES
    }


def test_it_equals_exhaustive_re_ranking(world, by_hand):
    forward = world.hypotheses
    ranked = jax.device_get(
        jax.jit(lambda batch: rerank(forward, world.backward(WEIGHT), batch))(world.batch)
    )
    changed = 0
    for row in range(2):
        found = {tuple(spoken(t)): s for t, s in zip(forward[0][row], forward[2][row], strict=True)}
        assert found.keys() == set(map(tuple, RESPONSES)), "the search found all there is"
        scores = {
            response: (1 - WEIGHT) * score + WEIGHT * by_hand[row, response]
            for response, score in found.items()
        }
        order = sorted(scores, key=scores.get, reverse=True)
        assert [tuple(spoken(tokens)) for tokens in ranked.tokens_BxKxT[row]] == order
        np.testing.assert_allclose(
            ranked.score_BxK[row], [scores[response] for response in order], rtol=1e-4
        )
        changed += order[0] != tuple(spoken(forward.tokens_BxKxT[row, 0]))
    assert changed, "the backward model changed nothing: the test shows nothing"


@pytest.mark.parametrize("rows", [slice(None), slice(0, 1)])
def test_the_backward_score_is_that_of_a_pass_by_hand(world, by_hand, rows):
    """Whatever the other rows and hypotheses, and however short the response."""
    batch = {"context": world.batch["context"][:2][rows]}
    hypotheses = jax.tree.map(lambda x: x[:2][rows], world.hypotheses)
    found = jax.jit(
        lambda: reranking.log_probability(
            world.backward(WEIGHT), hypotheses.tokens_BxKxT, batch["context"]
        )
    )()
    for row, tokens_KxT in enumerate(hypotheses.tokens_BxKxT):
        wanted = [by_hand[row, tuple(spoken(tokens))] for tokens in tokens_KxT]
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-4)


def test_a_weight_of_0_changes_no_bit(world):
    hypotheses = world.hypotheses
    run = jax.jit(lambda hypotheses: rerank(hypotheses, world.backward(0.0), world.batch))
    ranked = jax.device_get(run(hypotheses))
    small.assert_trees_equal(ranked._asdict(), hypotheses._asdict())


def test_generation_re_ranks_the_beams_that_it_would_have_ended_with(world):
    settings = search.Settings(strategies.Beam(4, 1.0), Limits(6, 0), Guidance(0.0, 0.0))

    @functools.partial(jax.jit, static_argnums=0)
    def run(weight, params, batch):
        backward = None if weight is None else world.backward(weight)
        return search.generate(
            world.model, params, batch, jax.random.key(0), settings, None, None, backward
        )

    plain, same, ranked = (
        jax.device_get(run(weight, world.params, world.batch)) for weight in (None, 0.0, 0.9)
    )
    small.assert_trees_equal(same._asdict(), plain._asdict())
    assert (ranked.tokens_BxT != plain.tokens_BxT).any()
    assert (ranked.log_probability_B <= plain.log_probability_B + 1e-5).any()


def test_the_search_goes_on_for_the_second_best():
    """Where nothing can beat the best, a search for one response is done; one for n is not."""
    none_1xKxT = np.full((1, 2, T), PAD)
    for second, done in ((-np.inf, False), (-9.0, True)):
        scores = np.array([[-0.1, second]])
        ended = beam_search.Hypotheses(none_1xKxT, scores, scores)
        live, length = np.array([[-12.0, -np.inf]]), np.int32(1)
        assert beam_search.is_done(ended, live, length, 1.0, T)
        assert beam_search.is_done(ended, live, length, 1.0, T, n_best=True) == done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir of a backward run, its setup, its state)."""
    return saved(tmp_path_factory.mktemp("backward"), data__reverse=True, data__use_images=False)


def saved(folder, **changes):
    config = small.make_config(**changes)
    setup = set_up(config)
    state = jax.tree.map(
        lambda leaf: jax.device_put(np.full(leaf.shape, 2, leaf.dtype), leaf.sharding),
        setup.abstract_state,
    )
    checkpoints = Checkpoints(folder, config, "digest")
    checkpoints.save(state)
    checkpoints.close()
    return folder, setup, state


def mmi(folder):
    return {
        "generate__mmi_weight": 0.3,
        "generate__mmi_checkpoint": str(folder),
        "generate__max_tokens": 12,
    }


def set_up(config):
    return train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1])


def test_reads_the_backward_model_of_a_run(trained):
    folder, _, state = trained
    config = small.make_config(**mmi(folder))
    found = load(set_up(config), "digest")
    small.assert_trees_equal(found.params, jax.device_get(state.params))
    assert found.weight == 0.3
    assert load(set_up(small.make_config()), "digest") is None


def test_refuses_what_cannot_re_rank(trained, tmp_path):
    folder, *_ = trained

    def refused(message, digest="digest", **changes):
        with pytest.raises(UserError, match=message):
            load(set_up(small.make_config(**mmi(folder) | changes)), digest)

    refused("tokenizer does not match", digest="another")
    refused("re-ranks beams", generate__strategy="sample")
    refused("needs a run of configs/backward.py", generate__mmi_checkpoint="")
    refused("mmi_weight=2", generate__mmi_weight=2.0)
    refused("no checkpoint", generate__mmi_checkpoint=str(tmp_path / "none"))
    refused("max_positions=16, below the 30", generate__max_tokens=30)
    forward, *_ = saved(tmp_path / "forward")
    refused("predicts responses", generate__mmi_checkpoint=str(forward))
    assert Reranking.of(small.make_config()).mmi_weight == 0
