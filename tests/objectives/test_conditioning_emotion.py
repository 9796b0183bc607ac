"""What the decoder is conditioned on, from whom a face is withheld, and the contrast."""

import dataclasses

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
    return small.encoded_context(config, PARAMS, batch, "emotional_response", rows_B)


def conditioned(**changes):
    """(config, batch, context) in which most responses have an image."""
    config = small.make_config(**changes)
    batch = small.make_batch(config, seed=5, batch_size=64)
    batch["context_turn"] = np.minimum(batch["context_turn"], 1)
    return config, batch, context_of(config, batch)


RESPONSE = "objectives__emotional_response__"


def test_face_dropout_hides_the_image_and_the_emotion_of_whole_examples():
    config, batch, context = conditioned(**{f"{RESPONSE}face_dropout": 0.4})
    hidden_B = np.asarray(context.encoder_input.face_dropped_B)
    assert 0.2 < hidden_B.mean() < 0.6
    shown = igerg.response_image(batch, SPECIAL)
    assert 0 < (shown.any(1) & hidden_B).sum() < shown.any(1).sum()
    expected = batch["image_mask"] & ~(shown & hidden_B[:, None])
    np.testing.assert_array_equal(context.encoder_input.images.mask_BxN, expected)
    label = np.eye(7)[batch["response_emotion"]] * ~hidden_B[:, None]
    np.testing.assert_array_equal(emotional_response.conditioning_emotion(context), label)
    # Keyed by the row: the same alone as among others.
    last = {name: array[-8:] for name, array in batch.items()}
    alone = context_of(config, last, jnp.arange(56, 64)).encoder_input.face_dropped_B
    np.testing.assert_array_equal(alone, hidden_B[-8:])


def test_without_dropout_nothing_is_withheld():
    _, batch, context = conditioned(**{f"{RESPONSE}face_dropout": 0.0})
    assert context.encoder_input.face_dropped_B is None
    np.testing.assert_array_equal(context.encoder_input.images.mask_BxN, batch["image_mask"])


def test_a_predicted_emotion_is_the_one_of_evaluation_and_has_no_gradient():
    changes = {f"{RESPONSE}emotion_source": "predicted", f"{RESPONSE}face_dropout": 0.0}
    _, batch, context = conditioned(**changes)
    logits = context.apply("image_emotion_logits", context.image_encoding)
    expected = igerg.target_emotion(logits, igerg.response_image(batch, SPECIAL))
    got = emotional_response.conditioning_emotion(context)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    seen = igerg.response_image(batch, SPECIAL).any(1)
    np.testing.assert_allclose(got.sum(1), seen, atol=1e-5)
    assert 0 < seen.sum() < len(seen)

    def probability(params):
        changed = dataclasses.replace(context, params=params)
        return emotional_response.conditioning_emotion(changed)[:, 0].sum()

    assert not small.largest(jax.grad(probability)(PARAMS))


def test_the_other_emotion_is_uniform_among_six_and_the_rows_own():
    _, batch, _ = conditioned()
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
    _, batch, context = conditioned()
    batch["response_emotion"][:5] = UNKNOWN
    batch["response"][5:9] = SPECIAL.pad
    response, mask = batch["response"], batch["response"] != SPECIAL.pad
    log_p_BxC = np.zeros((64, 7))
    for emotion in range(7):
        hidden = context.decode(response, jnp.tile(jnp.eye(7)[emotion], (64, 1)))
        log_p = jax.nn.log_softmax(hidden @ PARAMS["token_embedding"].T)
        picked = np.take_along_axis(np.asarray(log_p), response[..., None], axis=-1)[..., 0]
        log_p_BxC[:, emotion] = (picked * mask).sum(1)
    label, other = batch["response_emotion"], np.asarray(emotional_response.other_emotion(context))
    used = (label != UNKNOWN) & mask.any(1) & ~np.asarray(context.encoder_input.face_dropped_B)
    rows = np.arange(64)
    gap = (log_p_BxC[rows, other] - log_p_BxC[rows, label])[used]
    emotion = emotional_response.conditioning_emotion(context)
    tokens = context.token_loss_by_row(context.decode(response, emotion), response)
    got = emotional_response.contrast(context, emotion, tokens)
    assert 20 < used.sum() < 56 and (gap > 0).any() and (gap < 0).any()
    np.testing.assert_allclose(got.loss_sum, np.log1p(np.exp(gap)).sum(), rtol=1e-4)
    assert (got.count, got.correct) == (used.sum(), (gap < 0).sum())


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_wrong_face_dropout_is_refused(rate):
    config = small.make_config(**{f"{RESPONSE}face_dropout": rate})
    with pytest.raises(UserError, match="face_dropout"):
        objectives.check(config)
