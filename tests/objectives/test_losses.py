"""Losses against plain NumPy in float64, their gradients, and what they may hold in memory."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from igerg_jax.objectives import losses

B, T, D, V, J = 3, 7, 5, 120, 4
ROW_WITH_NOTHING = 2


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def text():
    """Hidden states, table, targets, mask: 7, 4 and 0 real tokens; id 100 is among the real."""
    rng = np.random.default_rng(1)
    targets = rng.integers(1, V, size=(B, T)).astype(np.int32)
    targets[0, 2] = 100
    mask = np.arange(T)[None] < np.array([[7], [4], [0]])
    return normal(B, T, D), normal(V, D, seed=2), targets, mask


def log_softmax(z):
    z = z.astype(np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_classification_is_a_loop_over_the_labelled():
    logits, labels = normal(4, 3, 7), np.array([[0, -1, 6], [-1, -1, -1], [2, 3, 4], [5, -1, 0]])
    total, count, correct = jax.jit(losses.classification)(logits, labels.astype(np.int32))
    expected = right = 0.0
    for index in zip(*np.nonzero(labels >= 0), strict=True):
        expected -= log_softmax(logits[index])[labels[index]]
        right += logits[index].argmax() == labels[index]
    np.testing.assert_allclose([total, count, correct], [expected, 7, right], rtol=1e-6)


def test_classification_of_nothing_is_zero_and_so_is_its_gradient():
    labels = np.full((4,), -1, np.int32)
    sums = lambda z: losses.classification(z, labels)[:2]  # noqa: E731
    (total, count), gradient = jax.jit(jax.value_and_grad(sums, has_aux=True))(normal(4, 7))
    assert (total, count) == (0, 0)
    np.testing.assert_array_equal(gradient, 0)


def test_label_smoothing_is_cross_entropy_with_smooth_labels():
    logits, labels = normal(5, 7), np.array([0, -1, 6, 3, -1], np.int32)
    run = jax.jit(lambda z: losses.classification(z, labels, 0.2))
    total, count, _ = run(logits)
    targets = optax.smooth_labels(jax.nn.one_hot(labels[labels >= 0], 7), 0.2)
    expected = -(targets * log_softmax(logits[labels >= 0])).sum()
    np.testing.assert_allclose([total, count], [expected, 3], rtol=1e-6)
    unlabelled = np.where(labels[:, None] < 0, np.inf, logits).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda z: losses.classification(z, labels, 0.2)[0]))(unlabelled)
    assert np.isfinite(gradient).all() and not gradient[labels < 0].any()


def plain_vocabulary(hidden, table, targets, mask):
    """The same without chunks, in JAX, so that it has a gradient."""
    logits = jnp.einsum("btd,vd->btv", hidden, table)
    picked = jax.nn.log_softmax(logits)[np.arange(B)[:, None], np.arange(T)[None], targets]
    return -(picked * mask).sum(), (mask & (logits.argmax(-1) == targets)).sum()


def with_gradients(function, *fixed):
    """(value, gradients by hidden and table), compiled."""
    run = lambda h, e: function(h, e, *fixed)  # noqa: E731
    return jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))


def test_vocabulary_is_a_loop_over_the_real_tokens():
    hidden, table, targets, mask = text()
    sums = jax.jit(functools.partial(losses.vocabulary, chunk_tokens=3))(*text())
    expected_B, correct_B = np.zeros(B), np.zeros(B)
    for index in zip(*np.nonzero(mask), strict=True):
        logits = table.astype(np.float64) @ hidden[index]
        expected_B[index[0]] -= log_softmax(logits)[targets[index]]
        correct_B[index[0]] += logits.argmax() == targets[index]
    np.testing.assert_allclose(sums.loss_B, expected_B, rtol=1e-6)
    assert sums.count_B.tolist() == [7, 4, 0] and sums.correct_B.tolist() == correct_B.tolist()
    np.testing.assert_allclose(sums.total(), [expected_B.sum(), 11, correct_B.sum()], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_chunks_change_neither_vocabulary_loss_nor_gradient(chunk):
    hidden, table, targets, mask = text()

    def chunked(hidden, table):
        nll, _, correct = losses.vocabulary(hidden, table, targets, mask, chunk).total()
        return nll, correct

    actual = with_gradients(chunked)(hidden, table)
    expected = with_gradients(plain_vocabulary, targets, mask)(hidden, table)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def respond(hidden, table, targets, mask, judge_table, estimator, temperature, seed, chunk=3):
    return losses.response(
        hidden,
        table,
        targets,
        mask,
        jnp.asarray(judge_table),
        estimator,
        temperature,
        jax.random.key(seed),
        chunk,
    )


@functools.partial(jax.jit, static_argnums=(5, 8))
def response(*args):
    return respond(*args)


JUDGE_TABLE = normal(V, J, seed=3)


@pytest.mark.parametrize("estimator", losses.ESTIMATORS)
def test_response_likelihood_is_vocabulary_loss_whatever_the_estimator(estimator):
    expected = jax.jit(functools.partial(losses.vocabulary, chunk_tokens=3))(*text())
    sums, embedded = response(*text(), JUDGE_TABLE, estimator, 0.7, 0, 3)
    assert embedded.shape == (B, T, J)
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def hard_embeddings():
    hidden, table, *_ = text()
    return JUDGE_TABLE[(hidden @ table.T).argmax(-1)]


def soft_embeddings(hidden, table, temperature):
    z = hidden.astype(np.float64) @ table.T.astype(np.float64)
    return np.exp(log_softmax(z / temperature)) @ JUDGE_TABLE.astype(np.float64)


@pytest.mark.parametrize("estimator", ["straight_through", "detached"])
def test_hard_estimators_give_the_judge_the_greedy_words(estimator):
    _, embedded = response(*text(), JUDGE_TABLE, estimator, 0.7, 0, 3)
    np.testing.assert_allclose(embedded, hard_embeddings(), rtol=1e-5, atol=1e-6)


def test_expected_is_the_mean_embedding_and_hard_where_it_is_cold():
    hidden, table, *_ = text()
    for temperature in (2.0, 0.7):
        _, embedded = response(*text(), JUDGE_TABLE, "expected", temperature, 0, 3)
        expected = soft_embeddings(hidden, table, temperature)
        np.testing.assert_allclose(embedded, expected, rtol=1e-4, atol=1e-5)
    _, cold = response(*text(), JUDGE_TABLE, "expected", 1e-4, 0, 3)
    np.testing.assert_allclose(cold, hard_embeddings(), atol=1e-5)


@functools.partial(jax.jit, static_argnums=1)
def embedded_gradient(hidden, estimator):
    """Of a random linear function of the judge's input."""
    _, *rest = text()

    def along(hidden):
        _, embedded = respond(hidden, *rest, JUDGE_TABLE, estimator, 0.7, 0)
        return (embedded * normal(B, T, J, seed=4)).sum()

    return jax.grad(along)(hidden)


@pytest.mark.parametrize("estimator", ["expected", "straight_through"])
def test_estimator_gradient_is_the_finite_difference_of_the_expected_embedding(estimator):
    hidden, table, *_ = text()
    gradient, weights = embedded_gradient(hidden, estimator), normal(B, T, J, seed=4)
    rng = np.random.default_rng(5)
    for _ in range(5):
        way = rng.standard_normal(hidden.shape)
        ends = [
            (soft_embeddings(hidden + s * way, table, 0.7) * weights).sum() for s in (1e-5, -1e-5)
        ]
        np.testing.assert_allclose((gradient * way).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-3)


def test_detached_has_no_gradient_and_gumbel_has_one():
    assert not np.asarray(embedded_gradient(text()[0], "detached")).any()
    assert np.abs(embedded_gradient(text()[0], "gumbel")).max() > 1e-3


def test_gumbel_draws_words_as_often_as_the_model_expects_them():
    """The Gumbel-max trick: the argmax of noisy logits is a draw from their softmax."""
    rows, length, vocabulary = 64, 64, 6
    logits = normal(vocabulary)
    hidden = np.broadcast_to(logits, (rows, length, vocabulary))
    identity = np.eye(vocabulary, dtype=np.float32)
    blank = np.zeros((rows, length), np.int32)
    _, draws = response(hidden, identity, blank, blank > 0, identity, "gumbel", 1.0, 0, 8)
    draws = np.asarray(draws)
    np.testing.assert_allclose(draws.max(-1), 1.0, atol=1e-5)  # one word each, not a mixture
    p, total = np.exp(log_softmax(logits)), rows * length
    deviation = np.sqrt(total * p * (1 - p))
    assert (np.abs(draws.sum((0, 1)) - total * p) < 4 * deviation).all()
    # Every position has its own noise, in other chunks too.
    words = draws.argmax(-1)
    assert len({tuple(chunk) for chunk in words.reshape(-1, 8)}) > rows * length // 8 - 3


def elements_with_vocabulary(program: str) -> int:
    """The most elements of any float array with a dimension V, of a jaxpr's or HLO's text."""
    shapes = re.findall(r"\b(?:f32|bf16|f16|float32)\[([\d,]+)\]", program)
    sizes = [[int(n) for n in shape.split(",")] for shape in shapes]
    return max(math.prod(size) for size in sizes if V in size)


@pytest.mark.parametrize("kind", ["vocabulary", "expected", "gumbel"])
def test_no_array_of_every_token_by_the_vocabulary(kind):
    hidden, table, targets, mask = text()

    def loss(hidden, table, chunk):
        if kind == "vocabulary":
            return losses.vocabulary(hidden, table, targets, mask, chunk).loss_B.sum()
        sums, embedded = respond(hidden, table, targets, mask, JUDGE_TABLE, kind, 0.7, 0, chunk)
        return sums.loss_B.sum() + embedded.sum()

    traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2).trace
    assert elements_with_vocabulary(str(traced(hidden, table, T).jaxpr)) == B * T * V
    program = traced(hidden, table, 2)
    assert elements_with_vocabulary(str(program.jaxpr)) == max(B * 2 * V, V * D)
    if kind == "expected":  # what XLA makes of it is bounded as well
        compiled = program.lower().compile().as_text()
        assert elements_with_vocabulary(compiled) <= max(B * 2 * V, V * D)


G = 6


def contrastive_loop(image, words, mask, log_scale, bias):
    image, words = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, words))
    total = correct = 0.0
    real = np.nonzero(mask)[0]
    for i in real:
        scores = {j: math.exp(log_scale) * float(image[i] @ words[j]) + bias for j in real}
        for j, z in scores.items():
            total += math.log1p(math.exp(-z if i == j else z))
        correct += max(scores, key=scores.get) == i
    return total, len(real), correct


@pytest.fixture(scope="module")
def contrastive():
    def loss(image, words, mask):
        total, *rest = losses.sigmoid_contrastive(
            image, words, mask, jnp.log(10.0), jnp.float32(-2)
        )
        return total, rest

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("mask", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0] * 5])
def test_contrastive_is_a_loop_over_pairs(contrastive, mask):
    mask = np.asarray(mask, bool)
    image, words = normal(5, G), normal(5, G, seed=1)
    (total, (count, correct)), gradients = contrastive(image, words, mask)
    expected = contrastive_loop(image, words, mask, math.log(10.0), -2.0)
    np.testing.assert_allclose([total, count, correct], expected, rtol=1e-5)
    for gradient in gradients:
        assert np.isfinite(gradient).all() and not np.asarray(gradient)[~mask].any()
    other = [np.where(mask[:, None], x, 7 * normal(5, G, seed=9)) for x in (image, words)]
    np.testing.assert_array_equal(contrastive(*other, mask)[0][0], total)


def test_contrastive_of_a_zero_vector_is_finite(contrastive):
    image, mask = normal(5, G), np.ones(5, bool)
    image[0] = 0
    (total, _), gradients = contrastive(image, normal(5, G, seed=1), mask)
    assert np.isfinite(total) and all(np.isfinite(g).all() for g in gradients)
