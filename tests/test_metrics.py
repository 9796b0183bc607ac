"""Metrics against cases worked out by hand, and properties that hold for any input."""

import html
import json
import math
import re

import contributing
import emotion_scores
import hypothesis
import numpy as np
import properties
import pytest
from hypothesis import strategies as st

from igerg_jax import metrics, report, text_metrics
from igerg_jax.batch import EMOTION_ID, NUM_EMOTIONS, UNKNOWN
from igerg_jax.evaluation import following
from igerg_jax.prediction_metrics import (
    Predicted,
    accuracy,
    calibration_error,
    confusion_matrix,
    judge_confidence,
    macro_f1,
    majority_rate,
    non_neutral_accuracy,
    precision_recall_f1,
    response_emotions,
)

TEXTS = ["the cat sat on the mat", "a dog ran to the park today", "I am so happy for you !"]


def test_confusion_matrix_counts_labels_in_rows_and_leaves_out_unknown():
    labels = np.array([[0, 0, 1], [2, UNKNOWN, UNKNOWN]])
    predictions = np.array([[0, 1, 1], [1, 0, 99]])  # 99 where nobody looks
    confusion = confusion_matrix(labels, predictions, classes=3)
    np.testing.assert_array_equal(confusion, [[1, 1, 0], [0, 1, 0], [0, 1, 0]])


def test_classification_by_hand():
    # Class 0: TP 1, FN 1. Class 1: TP 1, FP 2. Class 2: FN 1.
    confusion = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]))
    values = emotion_scores.classification_metrics("x", confusion)
    assert values["x_accuracy"] == 2 / 4
    assert values["x_macro_f1"] == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert values["x_majority_rate"] == 2 / 4


def test_non_neutral_accuracy_by_hand():
    neutral, joy, fear = (EMOTION_ID[name] for name in ("neutral", "joy", "fear"))
    labels = np.array([neutral, neutral, neutral, joy, joy, fear, UNKNOWN])
    guesses = np.array([neutral, neutral, joy, joy, neutral, joy, joy])
    confusion = confusion_matrix(labels, guesses)
    values = response_emotions(confusion, "second")
    assert values["response_emotion_non_neutral_accuracy_second"] == pytest.approx(1 / 3)
    assert values["response_emotion_accuracy_second"] == pytest.approx(3 / 6)
    assert set(response_emotions(confusion, "")) == {
        f"response_emotion_{name}" for name in ("accuracy", "macro_f1", "non_neutral_accuracy")
    }
    always = confusion_matrix(labels, np.full(7, neutral))
    assert non_neutral_accuracy(always) == 0 and accuracy(always) == 1 / 2
    only = confusion_matrix(np.full(3, neutral), np.zeros(3, int))
    assert math.isnan(non_neutral_accuracy(only))


def test_scores_of_a_class_by_hand():
    # Class 0: TP 1, FN 1. Class 1: TP 1, FP 2. Class 2: FN 1.
    confusion = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0]])
    first, second, third = precision_recall_f1(confusion)
    assert first == pytest.approx((1, 1 / 2, 2 / 3)) and second == pytest.approx((1 / 3, 1, 1 / 2))
    assert math.isnan(third[0]) and third[1:] == (0, 0)
    mean = np.mean([of[2] for of in (first, second, third)])
    assert macro_f1(confusion) == pytest.approx(mean)


def test_following_by_hand():
    """Two windows: one follows every face, one says joy (3) to all."""
    expressed_WxC = np.stack([np.arange(NUM_EMOTIONS), np.full(NUM_EMOTIONS, 3)])
    values, confusion = following.following_metrics(expressed_WxC, [7, 1])
    assert values["emotion_following"] == pytest.approx((7 + 1) / 14)
    assert values["emotion_following_distinct"] == 4
    assert values["emotion_following_chance"] == pytest.approx(1 / 7)
    # Of six emotions, one of two: F1 2/3. Joy: 2 right of 2, and 6 said wrongly.
    expected = (6 * 2 / 3 + 4 / (2 + 8)) / 7
    assert values["emotion_following_macro_f1"] == pytest.approx(expected)
    assert confusion[0].tolist() == [1, 0, 0, 1, 0, 0, 0]
    # Over windows, not over responses: shares 1 and 1/7, whose mean of two has this error.
    spread = np.std([1, 1 / 7], ddof=1) / 2**0.5
    assert values["emotion_following_standard_error"] == pytest.approx(spread, rel=0.05)


def test_macro_f1_counts_a_class_that_was_only_predicted_but_not_one_that_never_occurs():
    confusion = confusion_matrix(np.array([0, 0]), np.array([0, 5]))
    assert macro_f1(confusion) == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_classification_properties(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(UNKNOWN, NUM_EMOTIONS, size=200)
    predictions = rng.integers(0, NUM_EMOTIONS, size=200)
    confusion = confusion_matrix(labels, predictions)
    known = labels != UNKNOWN
    assert confusion.sum() == known.sum()
    assert accuracy(confusion) == pytest.approx(np.mean((labels == predictions)[known]))
    order = rng.permutation(200)
    np.testing.assert_array_equal(confusion, confusion_matrix(labels[order], predictions[order]))
    perfect = confusion_matrix(labels, np.where(known, labels, 0))
    assert accuracy(perfect) == macro_f1(perfect) == 1
    names = rng.permutation(NUM_EMOTIONS)  # what the classes are called does not matter
    renamed = confusion_matrix(np.where(known, names[labels], UNKNOWN), names[predictions])
    assert macro_f1(renamed) == pytest.approx(macro_f1(confusion))
    always = np.bincount(labels[known]).argmax()
    constant = confusion_matrix(labels, np.full_like(labels, always))
    assert majority_rate(confusion) == accuracy(constant)


ANY_TEXTS = st.lists(
    st.tuples(*[st.text(st.one_of(st.sampled_from("ab .,!'"), st.characters()))] * 2), max_size=6
)


@properties.examples(8)
@hypothesis.given(pairs=ANY_TEXTS)
def test_metrics_of_any_texts_are_in_their_range(pairs):
    texts, references = [[pair[side] for pair in pairs] for side in (0, 1)]
    values = metrics.of_texts(texts, references)
    again = metrics.of_texts(references, texts)
    for name, value in values.items():
        if not texts:
            assert math.isnan(value), name
            continue
        of_pairs = not name.startswith("reference_") and metrics.by_name()[name].of_pairs
        top = 1 if re.search(r"dist_\d", name) else 100 if of_pairs else math.inf
        assert 0 <= value <= top + 1e-9, name
        if name.startswith("rouge"):
            assert value == pytest.approx(again[name]), name
        elif not of_pairs and name != "reference_dist_adjusted":
            other = name.removeprefix("reference_") if "reference_" in name else f"reference_{name}"
            assert value == again[other], name


@properties.examples(20)
@hypothesis.given(data=st.data())
def test_what_is_masked_or_unlabelled_is_not_counted(data):
    """Whatever stands there; and batches add up."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows, images, tokens = (data.draw(st.integers(1, 5)) for _ in range(3))
    batch = {
        "image_mask": rng.random((rows, images)) < 0.6,
        "image_emotion": rng.integers(UNKNOWN, NUM_EMOTIONS, (rows, images)),
        "sequence_emotion": rng.integers(UNKNOWN, NUM_EMOTIONS, rows),
        "response_emotion": rng.integers(UNKNOWN, NUM_EMOTIONS, rows),
    }
    shapes = ((rows, images), (rows,), (rows,))
    logits = [rng.normal(size=(*shape, NUM_EMOTIONS)) for shape in shapes]
    spoken = rng.random((rows, tokens)) < 0.6
    rest = (spoken, rng.random(rows), rng.integers(0, tokens + 1, rows))
    found = metrics.counts(Predicted(batch, *logits, *rest))

    real = [batch["image_mask"], batch["image_mask"].any(1), spoken.any(1)]
    labels = [batch[f"{name}_emotion"] for name in ("image", "sequence", "response")]
    names = ("image", "sequence", "response")
    for i, name in enumerate(names):
        counted = real[i] & (labels[i] != UNKNOWN)
        batch[f"{name}_emotion"] = np.where(
            real[i], labels[i], rng.integers(0, NUM_EMOTIONS, labels[i].shape)
        )
        logits[i] = np.where(counted[..., None], logits[i], rng.normal(size=logits[i].shape))
    again = metrics.counts(Predicted(batch, *logits, *rest))
    parts = [
        metrics.counts(
            Predicted(
                {k: v[row] for k, v in batch.items()},
                *(x[row] for x in logits),
                *(x[row] for x in rest),
            )
        )
        for row in np.arange(rows).reshape(-1, 1)
    ]
    for name, value in found.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
        total = sum(np.asarray(part[name]) for part in parts)
        np.testing.assert_allclose(np.asarray(value), total, err_msg=name)


@pytest.mark.parametrize(
    ("labels", "predictions"), [([0, 1], [0]), ([7], [0]), ([-2], [0]), ([0], [7]), ([0], [-1])]
)
def test_confusion_matrix_refuses_what_is_no_class(labels, predictions):
    with pytest.raises(ValueError):
        confusion_matrix(np.array(labels), np.array(predictions))


def test_nothing_to_measure_is_nan():
    confusion = confusion_matrix(np.array([UNKNOWN]), np.array([0]))
    values = emotion_scores.classification_metrics("x", confusion)
    values |= metrics.of_texts([], [])
    values["ppl"] = text_metrics.perplexity(0.0, 0)
    assert all(math.isnan(value) for value in values.values()), values


def test_text_metrics_of_the_references_themselves():
    values = metrics.of_texts(TEXTS, TEXTS)
    for name in ("bleu_1", "bleu_4", "moses_bleu_4", "rouge_1", "rouge_2", "rouge_l"):
        assert values[name] == pytest.approx(100), name
    assert values["cider"] == pytest.approx(10)
    assert values["dist_adjusted"] == values["reference_dist_adjusted"]
    assert values["mean_words"] == pytest.approx((6 + 7 + 7) / 3)
    assert values["dist_4"] == 1
    order = [2, 0, 1]
    shuffled = metrics.of_texts([TEXTS[i] for i in order], [TEXTS[i] for i in order])
    assert shuffled == pytest.approx(values)


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_a_generator_that_says_nothing_scores_zero(empty):
    values = metrics.of_texts([empty] * 3, TEXTS)
    of_texts = {k: v for k, v in values.items() if not k.startswith("reference_")}
    assert of_texts and set(of_texts.values()) == {0.0}, of_texts


def test_text_metrics_refuses_lists_of_different_length():
    with pytest.raises(ValueError, match="2 texts but 3"):
        metrics.of_texts(TEXTS[:2], TEXTS)


def test_adding_a_metric_of_texts_takes_one_function_and_one_row(tmp_path, monkeypatch):
    """As CONTRIBUTING.md shows it: it is computed and reported."""
    row, _ = contributing.metric_rows()
    heading = "Response generated"
    monkeypatch.setitem(metrics.GROUPS, heading, (*metrics.GROUPS[heading], row))
    values = metrics.of_texts(["Why? Because.", "You did what ?"], ["Really?", "Who?"])
    assert (values["questions"], values["reference_questions"]) == (0.5, 1.0)
    (tmp_path / "summary.json").write_text(json.dumps({"evaluation": {"test": values}}))
    report.write_report(tmp_path)
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "Share of texts that ask something." in page
    assert "50%" in page and "100% <small>people's responses</small>" in page


def predicted(rng, rows: int = 9, images: int = 3, tokens: int = 5) -> Predicted:
    """Random logits and labels, some of them unknown, and padding."""
    drawn = lambda *shape: rng.standard_normal((*shape, NUM_EMOTIONS))  # noqa: E731
    labels = lambda *shape: rng.integers(UNKNOWN, NUM_EMOTIONS, shape)  # noqa: E731
    spoken_BxT = np.arange(tokens) < rng.integers(0, tokens + 1, (rows, 1))
    batch = {
        "image_mask": rng.random((rows, images)) < 0.7,
        "image_emotion": labels(rows, images),
        "sequence_emotion": labels(rows),
        "response_emotion": labels(rows),
    }
    batch["image_mask"][0] = False
    nll_B = rng.random(rows) * spoken_BxT.sum(1)
    logits = drawn(rows, images), drawn(rows), drawn(rows)
    return Predicted(batch, *logits, spoken_BxT, nll_B, spoken_BxT.sum(1) // 2)


def test_counts_of_batches_add_up_to_the_metrics_of_all_that_is_labelled():
    rng = np.random.default_rng(0)
    one, other = predicted(rng), predicted(rng)
    first, second = metrics.counts(one), metrics.counts(other)
    sums = {
        name: tuple(map(np.add, x, second[name])) if isinstance(x, tuple) else x + second[name]
        for name, x in first.items()
    }
    values = metrics.of_counts(sums)
    assert set(values) == set(metrics.measured_in_training()) - {"unigram_perplexity"}
    confusion = {}
    for name, label, logits, real in (
        ("image_emotion", "image_emotion", "image_logits_BxNxC", lambda p: p.batch["image_mask"]),
        (
            "sequence_emotion",
            "sequence_emotion",
            "sequence_logits_BxC",
            lambda p: p.batch["image_mask"].any(1),
        ),
        ("judge", "response_emotion", "judge_logits_BxC", lambda p: p.spoken_BxT.any(1)),
    ):
        confusion[name] = sum(
            confusion_matrix(
                np.where(real(p), p.batch[label], UNKNOWN), getattr(p, logits).argmax(-1)
            )
            for p in (one, other)
        )
    for name in ("image_emotion", "sequence_emotion"):
        expected = emotion_scores.classification_metrics(name, confusion[name])
        assert {k: values[k] for k in expected} == pytest.approx(expected)
    assert values["judge_accuracy"] == pytest.approx(accuracy(confusion["judge"]))
    nll = one.nll_B.sum() + other.nll_B.sum()
    tokens = one.spoken_BxT.sum() + other.spoken_BxT.sum()
    assert values["response_perplexity"] == pytest.approx(math.exp(nll / tokens))


def judged(confidence_B, right_B) -> Predicted:
    """Responses whose judge gives one emotion each confidence, and the others equal shares."""
    confidence_B, right_B = np.asarray(confidence_B), np.asarray(right_B)
    rows = np.arange(len(confidence_B))
    others_Bx1 = (1 - confidence_B[:, None]) / (NUM_EMOTIONS - 1)
    p_BxC = np.repeat(others_Bx1, NUM_EMOTIONS, axis=1)
    guess_B = rows % NUM_EMOTIONS
    p_BxC[rows, guess_B] = confidence_B
    label_B = np.where(right_B, guess_B, (guess_B + 1) % NUM_EMOTIONS)
    spoken_BxT = np.ones((len(rows), 2), bool)
    batch = {"response_emotion": label_B}
    return Predicted(batch, None, None, np.log(p_BxC) + 5, spoken_BxT, None, None)


def test_calibration_error_by_hand():
    # Two bins: confidences of 0.65 of which 1 in 2 is right, and of 0.95 of which 3 in 4 are.
    one = judged([0.65, 0.65, 0.95, 0.95, 0.95, 0.95], [1, 0, 1, 1, 1, 0])
    error = calibration_error(*judge_confidence(one))
    assert error == pytest.approx(2 / 6 * 0.15 + 4 / 6 * 0.2)
    # Neither an unlabelled response nor an empty one counts.
    unlabelled = np.where(np.arange(6) < 2, UNKNOWN, one.batch["response_emotion"])
    spoken_BxT = one.spoken_BxT & (np.arange(6) != 5)[:, None]
    rest = one._replace(batch={"response_emotion": unlabelled}, spoken_BxT=spoken_BxT)
    assert calibration_error(*judge_confidence(rest)) == pytest.approx(0.05)
    none = rest._replace(spoken_BxT=np.zeros_like(spoken_BxT))
    assert math.isnan(calibration_error(*judge_confidence(none)))


def test_a_judge_that_knows_how_sure_it_may_be_has_no_calibration_error():
    rng = np.random.default_rng(0)
    confidence_B = rng.uniform(0.3, 1.0, 100_000)
    error = calibration_error(
        *judge_confidence(judged(confidence_B, rng.random(100_000) < confidence_B))
    )
    too_sure = calibration_error(
        *judge_confidence(judged(confidence_B, rng.random(100_000) < confidence_B - 0.1))
    )
    assert error < 0.01 and too_sure == pytest.approx(0.1, abs=0.01)
