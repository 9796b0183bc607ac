"""Guidance, and conditioning on emotions, against full forward passes combined in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax import batch as batch_lib
from igerg_jax import random_keys
from igerg_jax.decoding import beam_search, search, strategies, stream
from igerg_jax.decoding.guidance import Guidance
from igerg_jax.decoding.limits import Limits
from igerg_jax.errors import UserError
from igerg_jax.evaluation import predictions
from igerg_jax.models import igerg
from igerg_jax.setup import build_model

V, T, ROWS = 14, 6, 16
EOS = small.SPECIAL.eos
NEVER = sorted({small.SPECIAL.pad, small.SPECIAL.bos, small.SPECIAL.unk, small.SPECIAL.mask})
KEY = jax.random.key(7)
GREEDY = strategies.Greedy()
SAMPLE = strategies.Sample(temperature=1.3, top_k=8, top_p=0.95, candidates=1, length_penalty=1.0)
BEAM = strategies.Beam(beams=4, length_penalty=1.0)


def lengths(tokens_BxT) -> np.ndarray:
    """Tokens up to EOS, counted."""
    return (np.asarray(tokens_BxT) == EOS).argmax(1) + 1


def allowed(log_p_V, position) -> np.ndarray:
    """-inf at what may not be chosen."""
    out = np.full(V, -np.inf)
    ids = [EOS] if position == T - 1 else [i for i in range(V) if i not in NEVER]
    out[ids] = log_p_V[ids]
    return out


STRATEGIES = pytest.mark.parametrize(
    "strategy", [GREEDY, SAMPLE, BEAM], ids=["greedy", "sample", "beam"]
)


class Guided:
    """A model with emotion embeddings, a batch whose responses all have an image, and its parts.

    `guided` decodes by a full forward pass of each stream a step, combined in NumPy.
    """

    def __init__(self):
        self.config = small.make_config()
        self.model = build_model(self.config, V, small.SPECIAL)
        spec = batch_lib.BatchSpec.of(self.config.data, ROWS)
        self.batch = batch_lib.synthetic(spec, small.SPECIAL, V, seed=3)
        self.batch["context_turn"] = np.minimum(self.batch["context_turn"], spec.images - 2)
        turn_B = self.batch["context_turn"].max(1)
        self.batch["image_mask"][:] = np.arange(spec.images) <= turn_B[:, None] + 1
        self.batch["image_turn"][:] = np.where(self.batch["image_mask"], np.arange(spec.images), 0)
        self.shown = igerg.response_image(self.batch, small.SPECIAL)
        assert self.shown.any(1).all()
        self.params = small.make_params(self.model, self.batch, spread=0.4)
        self._apply = functools.partial(self.model.apply, {"params": self.params})
        self._log_p = jax.jit(self.log_p)
        self._programs = {}

    def generate(self, strategy, guidance, floor, params, batch, emotion):
        settings = search.Settings(strategy, Limits(T, 0), Guidance(guidance, floor))
        return search.generate(self.model, params, batch, KEY, settings, None, emotion)

    def respond(self, strategy, guidance, floor=0.0, batch=None, emotion=None):
        """One program for each strategy and floor, with guidance or without."""
        key = strategy, floor, guidance > 0
        if key not in self._programs:
            self._programs[key] = jax.jit(
                lambda strength, *arguments: self.generate(
                    strategy, strength if guidance else 0.0, floor, *arguments
                )
            )
        arguments = jnp.float32(guidance), self.params, batch or self.batch, emotion
        return jax.device_get(self._programs[key](*arguments))

    @functools.cached_property
    def seen(self):
        """The emotion that the model sees in each response's image."""

        @jax.jit
        def probabilities(batch):
            images = igerg.image_side(batch, self._apply(batch, method="visual_tokens"))
            encoded = self._apply(images, None, method="encode")
            return jax.nn.softmax(self._apply(encoded, method="image_emotion_logits"))

        return np.asarray(probabilities(self.batch))[np.arange(ROWS), self.shown.argmax(1)]

    def log_p(self, tokens_BxT, image_mask, emotion):
        batch = self.batch | {"image_mask": image_mask}
        images = igerg.image_side(batch, self._apply(batch, method="visual_tokens"))
        encoded = self._apply(images, igerg.text_side(batch, small.SPECIAL), method="encode")
        inputs = igerg.shift_right(tokens_BxT, small.SPECIAL)
        hidden = self._apply(
            inputs, encoded.hidden_BxLxD, encoded.mask_BxL, emotion, method="decode"
        )
        return jax.nn.log_softmax(hidden @ self.params["token_embedding"].T)

    def guided(self, tokens_BxT, guidance, floor, emotion=None):
        """[B, T, V]: log-probabilities by their definition."""
        mask = self.batch["image_mask"]
        emotion = self.seen if emotion is None else emotion
        p = np.asarray(self._log_p(tokens_BxT, mask, emotion), np.float64)
        q = np.asarray(self._log_p(tokens_BxT, mask & ~self.shown, np.zeros_like(emotion)))
        z = p + guidance * (p - q)
        if floor:
            under = np.exp(p) < floor * np.exp(p).max(-1, keepdims=True)
            z[under] = p[under] - 1e3
        z -= z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def guided() -> Guided:
    return Guided()


@pytest.mark.parametrize(("guidance", "floor"), [(0.0, 0.0), (2.0, 0.0), (2.0, 0.3)])
def test_guided_greedy_is_the_argmax_of_two_full_forward_passes(guided, guidance, floor):
    tokens_BxT = guided.respond(GREEDY, guidance, floor).tokens_BxT
    log_p_BxTxV = guided.guided(tokens_BxT, guidance, floor)
    for tokens, log_p_TxV, length in zip(tokens_BxT, log_p_BxTxV, lengths(tokens_BxT), strict=True):
        assert [allowed(log_p_TxV[t], t).argmax() for t in range(length)] == list(tokens[:length])
    if guidance:
        assert (tokens_BxT != guided.respond(GREEDY, 0.0).tokens_BxT).any(1).mean() > 0.2


@STRATEGIES
def test_guided_scores_are_the_guided_log_probabilities(guided, strategy):
    got = guided.respond(strategy, 1.5)
    log_p = guided.guided(got.tokens_BxT, 1.5, 0.0)
    picked = np.take_along_axis(log_p, got.tokens_BxT[..., None], axis=-1)[..., 0]
    total_B = (picked * (np.arange(T) < lengths(got.tokens_BxT)[:, None])).sum(1)
    np.testing.assert_allclose(got.log_probability_B, total_B, rtol=1e-3, atol=1e-3)


def test_given_responses_are_as_likely_as_guidance_says(guided):
    """Teacher-forced, at any strength with one program: what the definition gives."""
    rng, traced = np.random.default_rng(0), []
    length_B = np.arange(ROWS) % T + 1
    tokens_BxT = rng.integers(small.SPECIAL.mask + 1, V, (ROWS, T), np.int32)
    tokens_BxT[np.arange(ROWS), length_B - 1] = EOS
    tokens_BxT[np.arange(T) >= length_B[:, None]] = small.SPECIAL.pad

    @jax.jit
    def score(tokens_BxT, guidance):
        traced.append(guidance)
        return predictions.guided_nll(
            guided.model, guided.params, guided.batch, tokens_BxT, guidance
        )

    real_BxT = tokens_BxT != small.SPECIAL.pad
    for guidance in (0.0, 2.0):
        found = jax.device_get(score(tokens_BxT, np.float32(guidance)))
        log_p = guided.guided(tokens_BxT, guidance, 0.0)
        picked = np.take_along_axis(log_p, tokens_BxT[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(found["nll_B"], -(picked * real_BxT).sum(1), rtol=1e-3)
        np.testing.assert_array_equal(found["tokens_B"], real_BxT.sum(1))
    assert len(traced) == 1


@STRATEGIES
def test_without_guidance_there_is_one_stream_whatever_the_floor(guided, strategy):
    """The responses and their scores are those of one `stream.start`, bit for bit."""

    def plain(params, batch):
        apply = functools.partial(guided.model.apply, {"params": params})
        images = igerg.image_side(batch, apply(batch, method="visual_tokens"))
        words = igerg.text_side(batch, small.SPECIAL)
        shown = igerg.response_image(batch, small.SPECIAL)
        alone = apply(images, None, method="encode")
        emotion = igerg.target_emotion(apply(alone, method="image_emotion_logits"), shown)
        source = stream.Source(apply(images, words, method="encode"), emotion)
        started = stream.start(guided.model, params, source, T)
        if isinstance(strategy, strategies.Beam):
            found = beam_search.beam_search(started, small.SPECIAL, strategy, Limits(T, 0))
            return search.Responses(*(leaf[:, 0] for leaf in found))
        keys_B = random_keys.row_keys(KEY, jnp.arange(ROWS))
        return search.decode_rows(started, small.SPECIAL, keys_B[:, None], strategy, Limits(T, 0))

    def unguided(params, batch):
        return guided.generate(strategy, 0.0, 0.5, params, batch, None)

    inputs = guided.params, guided.batch
    found, expected = (jax.jit(function)(*inputs) for function in (unguided, plain))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def decoder_steps(model, params, batch, guidance) -> int:
    """How many times a step of the loop multiplies by the output embedding."""
    settings = search.Settings(GREEDY, Limits(T, 0), Guidance(guidance, 0.0))
    traced = jax.make_jaxpr(lambda params: search.generate(model, params, batch, KEY, settings))(
        params
    )
    (loop,) = (eqn for eqn in traced.jaxpr.eqns if eqn.primitive.name == "while")
    return sum(
        eqn.primitive.name == "dot_general" and V in eqn.outvars[0].aval.shape
        for eqn in loop.params["body_jaxpr"].jaxpr.eqns
    )


def test_guidance_alone_decodes_twice(guided):
    found = [decoder_steps(guided.model, guided.params, guided.batch, g) for g in (0.0, 1.0)]
    assert found == [1, 2]


def test_a_floor_of_one_keeps_the_likeliest():
    """Guidance then changes nothing that is chosen."""
    log_p, log_q = np.asarray(jax.nn.log_softmax(3 * jax.random.normal(KEY, (2, 9, V))))
    floored, free = (np.asarray(Guidance(3.0, f).combine(log_p, log_q)) for f in (1.0, 0.0))
    np.testing.assert_array_equal(floored.argmax(-1), log_p.argmax(-1))
    assert (free.argmax(-1) != log_p.argmax(-1)).any()


def test_tokens_under_the_floor_come_last_and_in_the_models_order():
    """So that where a rule excludes all that is above it, the choice is the model's own."""
    log_p, log_q = np.asarray(jax.nn.log_softmax(3 * jax.random.normal(KEY, (2, 9, V))))
    found = np.asarray(Guidance(2.0, 0.3).combine(log_p, log_q))
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)
    above = np.exp(log_p) >= 0.3 * np.exp(log_p).max(-1, keepdims=True)
    for guided, p, kept in zip(found, log_p, above, strict=True):
        assert 0 < kept.sum() < V and guided[kept].min() > guided[~kept].max() + 100
        np.testing.assert_array_equal(np.argsort(guided[~kept]), np.argsort(p[~kept]))


def test_a_named_emotion_takes_the_place_of_the_one_seen(guided):
    same = guided.respond(GREEDY, 1.0, emotion=guided.seen)
    plain = guided.respond(GREEDY, 1.0)
    np.testing.assert_array_equal(same.tokens_BxT, plain.tokens_BxT)
    joy, fear = (np.tile(np.eye(7, dtype=np.float32)[e], (ROWS, 1)) for e in (3, 1))
    conditioned = [guided.respond(GREEDY, 1.0, emotion=e).tokens_BxT for e in (joy, fear)]
    assert (conditioned[0] != conditioned[1]).any(1).mean() > 0.2
    log_p = guided.guided(conditioned[0], 1.0, 0.0, joy)
    for tokens, log_p_TxV in zip(conditioned[0], log_p, strict=True):
        assert tokens[0] == allowed(log_p_TxV[0], 0).argmax()


def test_without_the_response_image_guidance_changes_nothing(guided):
    """Both streams are then one."""
    faceless = guided.batch | {"image_mask": guided.batch["image_mask"] & ~guided.shown}
    a, b = (guided.respond(GREEDY, g, batch=faceless).tokens_BxT for g in (0.0, 2.0))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrong", [{"guidance": -0.5}, {"guidance_floor": 1.5}])
def test_wrong_settings_are_named(wrong):
    config = small.make_config()
    config.generate.update(wrong, max_tokens=T)
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"generate.{name}={value}"):
        search.Settings.of(config)
