"""Learning from the model's own responses: the losses by hand, and what is drawn."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN
from igerg_jax.objectives import own_responses
from igerg_jax.objectives.sampling import sample

NAME = "emotional_response"
EOS, PAD = small.SPECIAL.eos, small.SPECIAL.pad
NEVER = {small.SPECIAL.pad, small.SPECIAL.bos, small.SPECIAL.unk, small.SPECIAL.mask}


def test_dpo_by_hand():
    """log p(w) = -2, log q(w) = -3, log p(l) = -4, log q(l) = -1, beta = 0.5: a margin of 2."""
    margin = 0.5 * ((-2 + 3) - (-4 + 1))
    loss, slope = jax.value_and_grad(own_responses.dpo)(margin)
    assert loss == pytest.approx(math.log(1 + math.exp(-2)))
    assert slope == pytest.approx(-1 / (1 + math.exp(2)))
    assert own_responses.dpo(0.0) == pytest.approx(math.log(2)), "at the reference"
    assert jax.grad(own_responses.dpo)(100.0) == pytest.approx(0), "w is preferred already"


class Language:
    """Three tokens, of which the last ends a response of at most three; a table is the policy."""

    def __init__(self):
        words = (pair for count in range(3) for pair in itertools.product((0, 1), repeat=count))
        self.sequences = [[*pair, 2] for pair in words]
        rng = np.random.default_rng(0)
        self.table = jnp.asarray(rng.standard_normal((7, 3)))  # of each sequence's prefixes
        self.reference = jnp.asarray(rng.standard_normal((7, 3)))
        self.judged_N = jnp.asarray(rng.standard_normal(len(self.sequences)))

    def log_p(self, table) -> jax.Array:
        """float [N] of every sequence: its third token is EOS for certain."""
        prefixes = [tuple(sequence[:-1]) for sequence in self.sequences]
        log_table = jax.nn.log_softmax(table)
        return jnp.stack(
            [
                sum(log_table[prefixes.index(tuple(s[:t]))][s[t]] for t in range(min(len(s), 2)))
                for s in self.sequences
            ]
        )


def test_the_policy_gradient_is_that_of_exact_enumeration():
    """Averaged over all pairs that may be drawn, with their probabilities."""
    language, kl = Language(), 0.3
    q_N = language.log_p(language.reference)

    def rewards(p_N):
        return language.judged_N - kl * (p_N - q_N)

    def expected(table):
        p_N = language.log_p(table)
        return -(jnp.exp(p_N) * rewards(p_N)).sum()

    def surrogate(table, pair_2):
        p_N = language.log_p(table)
        chosen = p_N[pair_2][None], rewards(p_N)[pair_2][None]
        return own_responses.rloo(*chosen)[0]

    with jax.enable_x64(True):
        p_N = np.exp(language.log_p(language.table))
        assert p_N.sum() == pytest.approx(1)
        pairs_Px2 = np.array(list(itertools.product(range(len(p_N)), repeat=2)))
        gradient_P = jax.vmap(jax.grad(surrogate), (None, 0))(language.table, pairs_Px2)
        mean = np.einsum("p,p...->...", p_N[pairs_Px2].prod(1), gradient_P)
        exact = jax.grad(expected)(language.table)
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(mean, exact, atol=1e-6)


def test_equal_rewards_teach_nothing():
    gradient = jax.grad(lambda p: own_responses.rloo(p, jnp.full((1, 3), 2.0)).sum())(
        jnp.array([[-1.0, -2.0, -3.0]])
    )
    assert not np.asarray(gradient).any()


class World:
    """A model, a reference, and the context of a batch."""

    def __init__(self):
        self.config = small.make_config(
            objectives__emotional_response__policy_samples=2,
            objectives__emotional_response__preference_beta=2.0,
        )
        self.model = small.make_model(self.config)
        self.batch = small.make_batch(self.config)
        self.batch["response_emotion"][:3] = UNKNOWN
        make = functools.partial(small.make_params, self.model, self.batch)
        self.params, self.reference = make(seed=0), make(seed=1)

    def terms(self, params, reference, batch):
        """{name: Sums} of both terms."""
        context = small.encoded(small.context(self.config, batch, NAME, params=params), params)
        context = dataclasses.replace(context, params=params, reference=reference)
        label_B = batch["response_emotion"]
        emotion_BxC = jax.nn.one_hot(label_B, NUM_EMOTIONS)
        other_B = (label_B + 1) % NUM_EMOTIONS
        return {
            "preference": own_responses.preference(context, emotion_BxC, other_B),
            "policy": own_responses.policy(context, emotion_BxC),
        }

    @functools.cached_property
    def gradients(self):
        """Jitted: {name: ((sums), gradient by the parameters and by the reference)}."""

        def of(params, reference, batch):
            sums = self.terms(params, reference, batch)
            return {name: term.loss_sum for name, term in sums.items()}, sums

        return jax.jit(jax.jacrev(of, argnums=(0, 1), has_aux=True))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_at_the_reference_the_preference_costs_log_2_for_each_used_example(world):
    gradients, sums = world.gradients(world.params, world.params, world.batch)
    count = float(sums["preference"].count)
    assert 0 < count <= len(world.batch["response_emotion"]) - 3
    np.testing.assert_allclose(sums["preference"].loss_sum, count * math.log(2), rtol=1e-5)
    assert sums["policy"].count == count
    for ours, references in gradients.values():
        assert small.largest(ours["decoder"]) > 1e-4, "it has a direction nonetheless"
        assert small.largest(references) == 0, "the reference stays"
        assert small.largest(ours["judge_network"]) == 0, "so does the judge"


def test_a_step_along_the_gradient_prefers(world):
    gradients, before = world.gradients(world.params, world.params, world.batch)
    gradient = gradients["preference"][0]
    params = jax.tree.map(lambda p, g: p - 1e-3 * g, world.params, gradient)
    _, after = world.gradients(params, world.params, world.batch)
    assert after["preference"].loss_sum < before["preference"].loss_sum
    assert after["preference"].correct > 0


def test_examples_without_a_label_teach_nothing(world):
    batch = world.batch | {"response_emotion": np.full_like(world.batch["response_emotion"], -1)}
    gradients, sums = world.gradients(world.params, world.reference, batch)
    assert all(term.count == term.loss_sum == 0 for term in sums.values())
    assert all(small.largest(ours) == 0 for ours, _ in gradients.values())


def test_draws_as_often_as_the_model_says():
    """The first of two tokens, for a few contexts; the second is EOS."""
    draws, length, contexts = 1000, 2, 8
    config = small.make_config()
    model, batch = small.make_model(config), small.make_batch(config, batch_size=contexts)
    params = small.make_params(model, batch, spread=0.2)
    context = small.encoded(small.context(config, batch, NAME, params=params), params)
    emotion_BxC = jax.nn.one_hot(batch["response_emotion"] % NUM_EMOTIONS, NUM_EMOTIONS)
    many = jax.tree.map(lambda x: jnp.repeat(x, draws, axis=0), (context.encoding, emotion_BxC))
    keys_R = jax.random.split(jax.random.key(0), contexts * draws)
    run = jax.jit(lambda encoded, emotion: sample(model, params, encoded, emotion, keys_R, length))
    drawn_RxT = np.asarray(run(*many))
    hidden_Bx1xD = context.apply(
        "decode",
        np.full((contexts, 1), small.SPECIAL.decoder_start),
        context.encoding.hidden_BxLxD,
        context.encoding.mask_BxL,
        emotion_BxC,
    )
    odds_BxV = np.exp(np.asarray(hidden_Bx1xD[:, 0] @ params["token_embedding"].T, np.float64))
    wanted_V = (odds_BxV / odds_BxV.sum(1, keepdims=True)).mean(0)
    assert min(wanted_V[i] for i in NEVER) > 0.002, "without a rule they would have been drawn"
    odds_BxV[:, sorted(NEVER)] = 0
    p_BxV = odds_BxV / odds_BxV.sum(1, keepdims=True)
    for p_V, first in zip(p_BxV, drawn_RxT[:, 0].reshape(contexts, draws), strict=True):
        share_V = np.bincount(first, minlength=small.VOCAB_SIZE) / draws
        assert (np.abs(share_V - p_V) <= 5 * np.sqrt(p_V * (1 - p_V) / draws)).all()
    ended_R = drawn_RxT[:, 0] == EOS
    np.testing.assert_array_equal(drawn_RxT[:, 1], np.where(ended_R, PAD, EOS))
