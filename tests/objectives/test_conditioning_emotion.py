"""What the decoder is conditioned on, from whom a face is withheld, and the contrast."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax import objectives
from igerg_jax.batch import UNKNOWN
from igerg_jax.errors import UserError
from igerg_jax.models import igerg
from igerg_jax.objectives import emotional_response
from igerg_jax.objectives.base import Context

MODEL = small.make_model(small.make_config())
SPECIAL = small.SPECIAL
PARAMS = small.make_params(MODEL, small.make_batch(small.make_config()))


def context_of(config, batch, rows_B=None):
    return small.context(config, batch, "emotional_response", rows_B)


def conditioned(**changes):
    """(batch, context) in which most responses have an image."""
    config = small.make_config(**changes)
    batch = small.make_batch(config, seed=5, batch_size=64)
    batch["context_turn"] = np.minimum(batch["context_turn"], 1)
    return batch, context_of(config, batch)


RESPONSE = "objectives__emotional_response__"


def test_face_dropout_hides_the_image_and_the_emotion_of_whole_examples():
    config = small.make_config(**{f"{RESPONSE}face_dropout": 0.4})
    batch, context = conditioned(**{f"{RESPONSE}face_dropout": 0.4})
    hidden_B = np.asarray(context.encoder_input.drawn)
    assert 0.2 < hidden_B.mean() < 0.6
    shown = igerg.response_image(batch, SPECIAL)
    assert 0 < (shown.any(1) & hidden_B).sum() < shown.any(1).sum()
    expected = batch["image_mask"] & ~(shown & hidden_B[:, None])
    np.testing.assert_array_equal(context.encoder_input.images.mask_BxN, expected)
    label = np.eye(7)[batch["response_emotion"]] * ~hidden_B[:, None]
    np.testing.assert_array_equal(emotional_response.conditioning_emotion(context), label)
    # Keyed by the row: the same alone as among others.
    last = {name: array[-8:] for name, array in batch.items()}
    alone = context_of(config, last, jnp.arange(56, 64)).encoder_input.drawn
    np.testing.assert_array_equal(alone, hidden_B[-8:])


def test_without_dropout_nothing_is_withheld():
    batch, context = conditioned(**{f"{RESPONSE}face_dropout": 0.0})
    assert context.encoder_input.drawn is None
    np.testing.assert_array_equal(context.encoder_input.images.mask_BxN, batch["image_mask"])


def test_a_predicted_emotion_is_the_one_of_evaluation_and_has_no_gradient():
    changes = {f"{RESPONSE}emotion_source": "predicted", f"{RESPONSE}face_dropout": 0.0}
    batch, context = conditioned(**changes)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def conditioning(params):
        with_images = small.encoded(context, params)
        logits = with_images.apply("image_emotion_logits", with_images.image_encoding)
        got = emotional_response.conditioning_emotion(with_images)
        return got[:, 0].sum(), (logits, got)

    gradient, (logits, got) = conditioning(PARAMS)
    expected = igerg.target_emotion(logits, igerg.response_image(batch, SPECIAL))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    seen = igerg.response_image(batch, SPECIAL).any(1)
    np.testing.assert_allclose(got.sum(1), seen, atol=1e-5)
    assert 0 < seen.sum() < len(seen)
    assert not small.largest(gradient)


def test_the_other_emotion_is_uniform_among_six_and_the_rows_own():
    batch, _ = conditioned()
    many = {name: np.repeat(array[:1], 3000, axis=0) for name, array in batch.items()}
    draw = Context(MODEL, many, jnp.arange(3000), {}, 0, jax.random.key(0))
    other_B = np.asarray(emotional_response.other_emotion(draw))
    counts = np.bincount(other_B, minlength=7)
    label = batch["response_emotion"][0]
    assert counts[label] == 0 and len(counts) == 7
    assert abs(np.delete(counts, label) - 500).max() < 5 * np.sqrt(500)
    some = {name: array[7:9] for name, array in many.items()}
    alone = dataclasses.replace(draw, batch=some, rows_B=jnp.arange(7, 9))
    np.testing.assert_array_equal(emotional_response.other_emotion(alone), other_B[7:9])


def test_the_contrast_is_its_formula_over_all_seven_emotions():
    """Each response's log-probability under every emotion, by a plain softmax; then the formula."""
    batch, context = conditioned()
    batch["response_emotion"][:5] = UNKNOWN
    batch["response"][5:9] = SPECIAL.pad
    response, mask = batch["response"], batch["response"] != SPECIAL.pad

    @jax.jit
    def measured(params):
        given = small.encoded(context, params)

        def log_p(emotion_C):
            hidden = given.decode(response, jnp.tile(emotion_C, (64, 1)))
            log_p_BxTxV = jax.nn.log_softmax(hidden @ params["token_embedding"].T)
            picked = jnp.take_along_axis(log_p_BxTxV, response[..., None], axis=-1)[..., 0]
            return (picked * mask).sum(1)

        emotion = emotional_response.conditioning_emotion(given)
        hidden, other_hidden = emotional_response.decoded(given, emotion, with_other=True)
        tokens = given.token_loss_by_row(hidden, response)
        contrast = emotional_response.contrast(given, emotion, tokens, other_hidden)
        return jax.lax.map(log_p, jnp.eye(7)), emotional_response.other_emotion(given), contrast

    log_p_CxB, other, got = jax.device_get(measured(PARAMS))
    label, rows = batch["response_emotion"], np.arange(64)
    used = (label != UNKNOWN) & mask.any(1) & ~np.asarray(context.encoder_input.drawn)
    gap = (log_p_CxB[other, rows] - log_p_CxB[label, rows])[used].astype(np.float64)
    assert 20 < used.sum() < 56 and (gap > 0).any() and (gap < 0).any()
    np.testing.assert_allclose(got.loss_sum, np.log1p(np.exp(gap)).sum(), rtol=1e-4)
    assert (got.count, got.correct) == (used.sum(), (gap < 0).sum())


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_wrong_face_dropout_is_refused(rate):
    config = small.make_config(**{f"{RESPONSE}face_dropout": rate})
    with pytest.raises(UserError, match="face_dropout"):
        objectives.check(config)
