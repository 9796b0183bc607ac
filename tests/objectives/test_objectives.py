"""The seven objectives: who learns from what, what nothing adds up to, and that each can learn.

One compiled gradient, with a weight for every term, serves most of this file.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from igerg_jax import objectives
from igerg_jax.batch import UNKNOWN
from igerg_jax.models import igerg
from igerg_jax.objectives import combination, emotional_response, losses
from igerg_jax.objectives.base import Context
from igerg_jax.parallel import sharding
from igerg_jax.setup import mesh_context
from igerg_jax.training import train_state

CONFIG = small.make_config(objectives__masked_multimodal__mask_fraction=0.3)
MODEL = small.make_model(CONFIG)
SPECIAL = small.SPECIAL
BATCH = small.make_batch(CONFIG)

# Every term of every objective.
TERMS = [
    ("image_emotion", ""),
    ("sequence_emotion", ""),
    ("text_denoising", ""),
    ("text_emotion", ""),
    ("masked_multimodal", "tokens"),
    ("masked_multimodal", "images"),
    ("emotional_response", "tokens"),
    ("emotional_response", "emotion"),
    ("emotional_response", "contrast"),
    ("image_text_contrastive", ""),
]


def weights_of(*names: str) -> dict:
    """1 for the terms of the named objectives, or for the named terms; else 0."""
    return {t: jnp.float32(t[0] in names or "/".join(t) in names) for t in TERMS}


PARAMS = small.make_params(MODEL, BATCH)
_LEAVES, _TREE = jax.tree.flatten(PARAMS)
_ENDS = np.cumsum([leaf.size for leaf in _LEAVES])


def ravel(params) -> np.ndarray:
    """One vector, so that neither the optimizer nor a call handles a hundred small arrays."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def unravel(vector):
    pieces = [vector[end - leaf.size : end] for leaf, end in zip(_LEAVES, _ENDS, strict=True)]
    shaped = [x.reshape(leaf.shape) for x, leaf in zip(pieces, _LEAVES, strict=True)]
    return jax.tree.unflatten(_TREE, shaped)


def means_and_counts(config, vector, features, batch):
    batch = dict(batch, features=features)
    terms, _ = combination.sums(config, MODEL, unravel(vector), batch, jax.random.key(0), 0)
    means = {
        name: term.scale * term.loss_sum / jnp.maximum(term.count, 1)
        for name, term in terms.items()
    }
    return means, {name: term.count for name, term in terms.items()}


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
def weighted(vector, features, batch, weights):
    config = small.only(CONFIG.copy_and_resolve_references(), *objectives.OBJECTIVES)
    means, counts = means_and_counts(config, vector, features, batch)
    return sum(weights[name] * mean for name, mean in means.items()), (means, counts)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=(1, 2))
def emotion_loss(estimator, vector, features, batch):
    """L_emotion of the response alone."""
    config = small.only(CONFIG.copy_and_resolve_references(), "emotional_response")
    config.objectives.emotional_response.estimator = estimator
    return means_and_counts(config, vector, features, batch)[0]["emotional_response", "emotion"]


def without_features(batch):
    return {name: value for name, value in batch.items() if name != "features"}


def run(batch, weights):
    """Loss, the terms' means and counts, and its gradients by parameters and by features."""
    inputs = ravel(PARAMS), batch["features"], without_features(batch), weights
    (loss, (means, counts)), (by_params, by_features) = jax.device_get(weighted(*inputs))
    return loss, means, counts, unravel(by_params), by_features


def run_emotion(estimator, params=PARAMS):
    if estimator == "straight_through":  # the config's own: it is compiled already
        loss, _, _, *grads = run(BATCH, weights_of("emotional_response/emotion"))
        return loss, *grads
    inputs = ravel(params), BATCH["features"], without_features(BATCH)
    loss, (by_params, by_features) = jax.device_get(emotion_loss(estimator, *inputs))
    return loss, unravel(by_params), by_features


@pytest.fixture(scope="module")
def whole():
    return run(BATCH, weights_of(*objectives.OBJECTIVES))


def test_every_objective_counts_its_own_items(whole):
    _, means, counts, *_ = whole
    assert set(means) == set(TERMS)
    context, response = BATCH["context"], BATCH["response"]
    assert counts["image_emotion", ""] == BATCH["image_mask"].sum()
    assert counts["masked_multimodal", "images"] == BATCH["image_mask"].sum()
    assert counts["text_denoising", ""] == (context != SPECIAL.pad).sum()
    assert counts["emotional_response", "tokens"] == (response != SPECIAL.pad).sum()
    rows = ("sequence_emotion", ""), ("text_emotion", ""), ("image_text_contrastive", "")
    assert all(counts[name] == 8 for name in (*rows, ("emotional_response", "emotion")))
    assert 4 <= counts["emotional_response", "contrast"] < 8, "some rows are conditioned on none"
    words = (context != SPECIAL.pad) & (context != SPECIAL.eos)
    assert 0 < counts["masked_multimodal", "tokens"] < words.sum()
    assert all(np.isfinite(mean) and mean > 0 for mean in means.values())


# The consistency term: its estimators, and who learns from it.


@pytest.mark.parametrize("estimator", losses.ESTIMATORS)
def test_who_learns_from_the_emotion_of_the_response(estimator):
    _, by_params, by_features = run_emotion(estimator)
    assert not small.largest(by_params["judge_network"]), "the judge learns from its own verdict"
    if estimator == "detached":
        assert not small.largest(by_params) and not by_features.any()
        return
    for name in ("token_embedding", "decoder", "encoder", "image_projection", "turn_embedding"):
        assert small.largest(by_params[name]) > 1e-5, name
    assert np.abs(by_features[BATCH["image_mask"]]).max() > 1e-6


def test_straight_through_and_detached_tell_the_judge_the_same():
    loss = {e: run_emotion(e)[0] for e in ("straight_through", "detached", "expected")}
    np.testing.assert_allclose(loss["straight_through"], loss["detached"], rtol=1e-5)
    assert abs(loss["expected"] - loss["detached"]) > 1e-4


def test_expected_gradient_is_the_finite_difference():
    """Through the whole generator, along random directions."""
    _, by_params, _ = run_emotion("expected")
    gradient = ravel(by_params).astype(np.float64)
    for seed in range(3):
        way = gradient + np.random.default_rng(seed).standard_normal(gradient.shape) * 1e-3
        way = unravel(way / np.abs(way).max() * 1e-2)
        # The judge is held fixed: its own gradient would not be zero.
        way["judge_network"] = jax.tree.map(np.zeros_like, way["judge_network"])
        way = ravel(way)
        at = {s: ravel(PARAMS) + np.float32(s) * way for s in (-2, -1, 1, 2)}
        at = {s: float(run_emotion("expected", unravel(x))[0]) for s, x in at.items()}
        difference = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / 12
        np.testing.assert_allclose(gradient @ way, difference, rtol=0.02)


def test_weights_of_zero_leave_the_plain_likelihood():
    config = small.only(small.make_config(), "emotional_response")
    config.objectives.emotional_response.update(consistency_weight=0.0, contrast_weight=0.0)
    sums = functools.partial(combination.sums, config, MODEL)
    terms, _ = jax.eval_shape(lambda: sums(PARAMS, BATCH, jax.random.key(0), 0))
    assert list(terms) == [("emotional_response", "tokens")]


@pytest.mark.parametrize("start", [0, 3])
def test_without_a_ramp_the_consistency_weight_is_at_its_height_from_its_start(start):
    settings = dict(consistency_weight=0.5, consistency_start_step=start, consistency_ramp_steps=0)
    found = [
        float(emotional_response.consistency_weight(settings, jnp.int32(step))) for step in range(6)
    ]
    assert found == [0.0] * start + [0.5] * (6 - start)


def test_consistency_weight_is_zero_then_ramps_to_its_height():
    settings = dict(consistency_weight=0.5, consistency_start_step=10, consistency_ramp_steps=4)
    values = [
        float(emotional_response.consistency_weight(settings, s)) for s in (0, 10, 11, 12, 14, 99)
    ]
    np.testing.assert_allclose(values, [0, 0, 0.125, 0.25, 0.5, 0.5])


def test_temperature_falls_geometrically():
    settings = dict(temperature_start=2.0, temperature_end=0.5, temperature_anneal_steps=4)
    values = [float(emotional_response.temperature(settings, s)) for s in (0, 1, 2, 4, 99)]
    np.testing.assert_allclose(values, [2, 2 / 2**0.5, 1, 0.5, 0.5], rtol=1e-6)


# Which parameters an objective may touch.


def test_the_contrast_teaches_the_decoder_what_the_emotions_are():
    *_, by_params, by_features = run(BATCH, weights_of("emotional_response/contrast"))
    names = ["decoder", "token_embedding", "emotion_input_embedding", "emotion_output_embedding"]
    for name in (*names, "encoder"):
        assert small.largest(by_params[name]) > 1e-5, name
    for name in names[2:]:  # the own and the other emotion, and none that is neither
        assert 2 <= (np.abs(by_params[name]).max(1) > 0).sum() <= 7
    assert not small.largest(by_params["emotion_head"]), "the label conditions, not what is seen"
    assert not small.largest(by_params["judge_network"]) and by_features.any()


def test_learning_the_contrast_makes_responses_likelier_under_their_own_emotion():
    history, _, _ = learn(START, 60, "emotional_response/contrast")
    weight = CONFIG.objectives.emotional_response.contrast_weight
    assert history[0] > 0.6 * weight and history[-1] < 0.1 * history[0], (history[0], history[-1])


def test_text_emotion_trains_the_judge_alone():
    *_, by_params, by_features = run(BATCH, weights_of("text_emotion"))
    touched = {name for name, tree in by_params.items() if small.largest(tree)}
    assert touched == {"judge_network"} and not by_features.any()
    assert objectives.OBJECTIVES["text_emotion"].trains == ("judge_network",)


def test_no_other_objective_trains_the_judge():
    others = set(objectives.OBJECTIVES) - {"text_emotion"}
    *_, by_params, _ = run(BATCH, weights_of(*others))
    assert not small.largest(by_params["judge_network"])


@pytest.mark.parametrize(
    ("objective", "heads"),
    [
        ("image_emotion", {"emotion_head"}),
        ("sequence_emotion", {"sequence_emotion_head"}),
        ("text_denoising", {"decoder"}),
        ("masked_multimodal", {"masked_token_head", "emotion_head"}),
        ("emotional_response", {"decoder"}),
        ("image_text_contrastive", {"contrastive_image", "contrastive_text"}),
    ],
)
def test_an_objective_trains_its_own_heads(objective, heads):
    *_, by_params, by_features = run(BATCH, weights_of(objective))
    touched = {name for name, tree in by_params.items() if small.largest(tree)}
    every = {"emotion_head", "sequence_emotion_head", "masked_token_head", "decoder"}
    every |= {"contrastive_image", "contrastive_text", "judge_network"}
    assert touched & every == heads
    assert touched & {*igerg.OPTIONAL_PARTS} == {*objectives.OBJECTIVES[objective].trains}
    assert bool(by_features.any()) == (objective != "text_denoising")


# What is masked, and what is empty.


def test_masked_images_may_hold_anything_and_learn_nothing(whole):
    mask = BATCH["image_mask"]
    assert not mask.all()
    strange = dict(
        BATCH,
        features=np.where(mask[..., None], BATCH["features"], np.nan),
        image_turn=np.where(mask, BATCH["image_turn"], 1).astype(np.int32),
        image_emotion=np.where(mask, BATCH["image_emotion"], 3).astype(np.int32),
    )
    small.assert_trees_equal(run(strange, weights_of(*objectives.OBJECTIVES)), whole)
    by_features = whole[-1]
    assert not by_features[~mask].any()
    assert np.abs(by_features[mask]).max(axis=-1).min() > 0


def test_the_turn_of_padding_is_not_read(whole):
    turn = np.where(BATCH["context"] == SPECIAL.pad, 2, BATCH["context_turn"]).astype(np.int32)
    small.assert_trees_equal(
        run(dict(BATCH, context_turn=turn), weights_of(*objectives.OBJECTIVES)), whole
    )


def test_padding_gets_no_gradient(whole):
    positions = whole[-2]["decoder_position_embedding"]
    longest = int((BATCH["context"] != SPECIAL.pad).sum(1).max())
    assert longest < 12, "the batch needs padding everywhere at its end"
    assert not positions[longest:].any() and positions[:longest].any(-1).all()
    assert not whole[-2]["encoder_position_embedding"][12:].any()


NOTHING = {
    "images": dict(image_mask=False),
    "context": dict(context=SPECIAL.pad, context_turn=0),
    "response": dict(response=SPECIAL.pad),
    "labels": dict.fromkeys(["image_emotion", "sequence_emotion", "response_emotion"], UNKNOWN),
}
# The terms that are left with nothing when a side of the batch is missing.
EMPTY = {
    "images": {"image_emotion", "sequence_emotion", "image_text_contrastive"}
    | {"masked_multimodal/images"},
    "context": {"text_denoising", "masked_multimodal/tokens", "image_text_contrastive"},
    "response": {"text_emotion", "emotional_response/tokens", "emotional_response/emotion"}
    | {"emotional_response/contrast"},
    "labels": {"image_emotion", "sequence_emotion", "text_emotion", "masked_multimodal/images"}
    | {"emotional_response/emotion", "emotional_response/contrast"},
}


@pytest.mark.parametrize("missing", [*NOTHING, "everything"])
def test_nothing_adds_zero_and_has_no_gradient(missing):
    parts = list(NOTHING) if missing == "everything" else [missing]
    batch = dict(BATCH)
    for part in parts:
        batch |= {name: np.full_like(batch[name], fill) for name, fill in NOTHING[part].items()}
    empty = set().union(*(EMPTY[part] for part in parts))
    _, means, counts, by_params, by_features = run(batch, weights_of(*empty))
    for (objective, part), mean in means.items():
        name = f"{objective}/{part}" if part else objective
        count = counts[objective, part]
        assert np.isfinite(mean), name
        assert (mean == 0 and count == 0) if name in empty else count > 0, name
    assert not small.largest(by_params) and not by_features.any()
    if missing != "everything":  # what is left is finite
        *_, by_params, by_features = run(batch, weights_of(*objectives.OBJECTIVES))
        assert np.isfinite(small.largest(by_params)) and np.isfinite(by_features).all()
        assert small.largest(by_params) > 0


# Meshes.


@pytest.mark.slow
def test_no_gradient_changes_on_a_mesh(whole):
    """Agreeing losses are not enough: a partitioner can get the backward pass alone wrong."""
    config = CONFIG.copy_and_resolve_references()
    config.mesh.update(data=2, fsdp=2, tensor=2)
    small.only(config, *objectives.OBJECTIVES)
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, SPECIAL)
    placed = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_state.params)
    by_example = sharding.batch_sharding(setup.mesh)

    @functools.partial(jax.jit, in_shardings=(placed, by_example), out_shardings=(placed, None))
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params, batch):
        terms, _ = combination.sums(config, MODEL, params, batch, jax.random.key(0), 0)
        means = {k: t.scale * t.loss_sum / jnp.maximum(t.count, 1) for k, t in terms.items()}
        return sum(means.values()), means

    with mesh_context(setup):
        by_params, means = gradient(
            jax.device_put(PARAMS, placed), jax.device_put(BATCH, by_example)
        )
    small.assert_trees_close(means, whole[1], rtol=1e-4)
    small.assert_trees_close(by_params, whole[3], rtol=2e-3, atol=2e-4)


# Learning.


ADAM = optax.adam(1e-2)


@jax.jit
def update(vector, state, gradient):
    updates, state = ADAM.update(gradient, state)
    return vector + updates, state


def learn(params, steps: int, *names: str):
    """Losses, the terms' last means, and the parameters after `steps` on one batch."""
    vector, weights = jnp.asarray(ravel(params)), weights_of(*names)
    state, history = ADAM.init(vector), []
    for _ in range(steps):
        inputs = vector, BATCH["features"], without_features(BATCH), weights
        (loss, (means, _)), (gradient, _) = weighted(*inputs)
        history.append(float(loss))
        vector, state = update(vector, state, gradient)
    return history, means, unravel(np.asarray(vector))


START = jax.tree.map(lambda p: 0.3 * np.asarray(p), PARAMS)


@pytest.mark.parametrize(
    ("objective", "steps", "below"),
    [
        ("image_emotion", 60, 0.05),
        ("sequence_emotion", 60, 0.05),
        ("text_denoising", 250, 0.3),
        ("text_emotion", 100, 0.05),
        ("masked_multimodal", 120, 0.1),
        ("image_text_contrastive", 150, 0.1),
    ],
)
def test_each_objective_alone_overfits_one_batch(objective, steps, below):
    # The contrastive loss stays long on a plateau when all vectors begin alike.
    start = PARAMS if objective == "image_text_contrastive" else START
    history, _, _ = learn(start, steps, objective)
    assert history[0] > 1
    assert history[-1] < below, (history[0], history[-1])


def test_emotional_response_overfits_one_batch_once_there_is_a_judge():
    _, _, params = learn(START, 100, "text_emotion")
    # L_emotion alone changes what is said until the judge hears the emotion that was asked for.
    history, _, _ = learn(params, 100, "emotional_response/emotion")
    assert history[0] > 1
    assert history[-1] < 0.2 * history[0], (history[0], history[-1])
    # And the two terms agree: the reference response has both its words and its emotion.
    history, means, _ = learn(params, 150, "emotional_response")
    assert history[0] > 4
    assert all(means["emotional_response", part] < 0.2 for part in ("tokens", "emotion")), means


# Randomness.


def test_decoder_dropout_depends_on_the_rows():
    """Two micro-batches with the same content are two draws."""
    config = small.make_config(model__text__dropout_rate=0.5)
    model = small.make_model(config)
    batch = {
        name: jnp.asarray(np.tile(v[:1], (2,) + (1,) * (v.ndim - 1))) for name, v in BATCH.items()
    }
    memory, mask = jnp.ones((2, 4, 16)), jnp.ones((2, 4), bool)
    encoded = igerg.Encoded(memory, mask, memory[:, 0], None, None)

    @jax.jit
    def decode(rows_B):
        key = jax.random.key(0)
        context = Context(model, batch, rows_B, {}, 0, key, params=PARAMS, encoding=encoded)
        return context.decode(batch["response"])

    first, again, other = (decode(jnp.asarray(rows)) for rows in ([0, 1], [0, 1], [2, 3]))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2
