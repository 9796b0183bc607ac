"""Metrics of what a model predicts for held-out data: emotions, tokens, and how sure it is.

NumPy and the standard library only; letters as in `igerg_jax.batch`. `igerg_jax.metrics` has the
table that evaluations and reports read.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from igerg_jax.batch import NEUTRAL, NUM_EMOTIONS, UNKNOWN
from igerg_jax.text_metrics import ratio

BINS = 10  # of confidence, equally wide, in a calibration error


class Predicted(NamedTuple):
    """A batch of windows and what a model predicts for it: what the counts of metrics are made of.

    The arrays are NumPy's, or JAX's while they are traced, so that code here uses nothing but their
    methods and operators. The emotions of images and sequences are predicted from images only; the
    response from images and words, each token given those before it.
    """

    # The arrays of `igerg_jax.batch`. Labels of what the model has no part to predict are UNKNOWN.
    batch: Mapping[str, Any]
    image_logits_BxNxC: Any  # of each image's emotion
    sequence_logits_BxC: Any
    judge_logits_BxC: Any  # of the true response's emotion, by the run's own judge
    spoken_BxT: Any  # bool, the true response's tokens, EOS included
    nll_B: Any  # of those tokens together, in nats
    correct_tokens_B: Any  # how many of them the model finds likeliest


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, classes: int = NUM_EMOTIONS
) -> np.ndarray:
    """Counts of (label, prediction) pairs; pairs whose label is UNKNOWN are left out.

    Args:
      labels: class ids, or UNKNOWN; integers of any shape.
      predictions: class ids, same shape.
      classes: how many classes there are.

    Returns:
      int64 [classes, classes]; rows are labels, columns are predictions.

    Raises:
      ValueError: the shapes differ, or an id is not in [0, classes).
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(f"labels are {labels.shape} but predictions are {predictions.shape}")
    known = labels != UNKNOWN
    cells = np.ravel_multi_index((labels[known], predictions[known]), (classes, classes))
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def accuracy(confusion: np.ndarray) -> float:
    """Share of labelled examples on the diagonal of a `confusion_matrix`; 0..1, NaN if empty."""
    return ratio(np.trace(confusion), np.sum(confusion))


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the classes that occur as a label or as a prediction; 0..1, NaN if empty.

    A class that is neither a label nor a prediction has no F1; one that was predicted but never
    right has 0. This is what scikit-learn's `f1_score(average="macro")` does.
    """
    hits_C = np.diag(confusion).astype(np.float64)
    seen_C = confusion.sum(axis=0) + confusion.sum(axis=1)  # 2 TP + FP + FN
    occurs_C = seen_C > 0
    if not occurs_C.any():
        return math.nan
    return float(np.mean(2 * hits_C[occurs_C] / seen_C[occurs_C]))


def precision_recall_f1(confusion: np.ndarray) -> list[tuple[float, float, float]]:
    """(precision, recall, F1) of each class, 0..1; NaN where undefined: for a class that is never
    predicted, never a label, or never either of them.
    """
    hits_C, labelled_C, predicted_C = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return [
        (ratio(hits, predicted), ratio(hits, labelled), ratio(2 * hits, labelled + predicted))
        for hits, labelled, predicted in zip(hits_C, labelled_C, predicted_C, strict=True)
    ]


def non_neutral_accuracy(confusion: np.ndarray) -> float:
    """Accuracy over the examples whose label is not neutral; 0..1, NaN if there are none.

    Where most are neutral, accuracy says little: always answering neutral has most of it, and
    none of this.
    """
    others = np.arange(len(confusion)) != NEUTRAL
    return ratio(np.diag(confusion)[others].sum(), confusion[others].sum())


def majority_rate(confusion: np.ndarray) -> float:
    """Accuracy of always predicting the commonest label; 0..1, NaN if empty."""
    return ratio(np.max(confusion.sum(axis=1)), np.sum(confusion))


# {what a name in summary.json has after "response_emotion_": its function of a `confusion_matrix`}
OF_EMOTIONS = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "non_neutral_accuracy": non_neutral_accuracy,
}


def response_emotions(confusion: np.ndarray, labeller: str) -> dict[str, float]:
    """`OF_EMOTIONS` of emotions meant (rows) and expressed, `response_emotion_…`.

    Args:
      labeller: "" = the word list; else one of `text_labeller.ORDINALS`, which ends the names.
    """
    end = f"_{labeller}" if labeller else ""
    return {f"response_emotion_{name}{end}": of(confusion) for name, of in OF_EMOTIONS.items()}


def image_emotions(predicted: Predicted) -> Any:
    """Confusion matrix of labelled images."""
    real_BxN, label_BxN = (predicted.batch[k] for k in ("image_mask", "image_emotion"))
    return _count_pairs(predicted.image_logits_BxNxC, label_BxN, real_BxN)


def sequence_emotions(predicted: Predicted) -> Any:
    """Confusion matrix of labelled sequences with an image."""
    real_B, label_B = predicted.batch["image_mask"].any(1), predicted.batch["sequence_emotion"]
    return _count_pairs(predicted.sequence_logits_BxC, label_B, real_B)


def judged_emotions(predicted: Predicted) -> Any:
    """Confusion matrix of labelled responses, by the judge's reading of them."""
    label_B, real_B = predicted.batch["response_emotion"], predicted.spoken_BxT.any(1)
    return _count_pairs(predicted.judge_logits_BxC, label_B, real_B)


def response_likelihood(predicted: Predicted) -> tuple[Any, Any]:
    """(negative log-likelihood in nats, number) of the true responses' tokens."""
    return predicted.nll_B.sum(), predicted.spoken_BxT.sum()


def judge_confidence(predicted: Predicted) -> tuple[Any, Any]:
    """Of labelled responses in each of `BINS` of the judge's confidence: (number, excess).

    The confidence is the probability of the likeliest emotion, the excess how far the confidences
    together exceed the number that are right. See `calibration_error`.
    """
    label_B, logits_BxC = predicted.batch["response_emotion"], predicted.judge_logits_BxC
    known_B = (label_B != UNKNOWN) & predicted.spoken_BxT.any(1)
    # Of a softmax: the likeliest class has e^0 above the sum.
    confidence_B = 1 / (np.e ** (logits_BxC - logits_BxC.max(-1, keepdims=True))).sum(-1)
    bin_B = (confidence_B * BINS).astype(np.int32).clip(0, BINS - 1)
    in_bin_BxK = (bin_B[:, None] == np.arange(BINS)[None]) & known_B[:, None]
    excess_B = confidence_B - (logits_BxC.argmax(-1) == label_B)
    return in_bin_BxK.sum(0), (in_bin_BxK * excess_B[:, None]).sum(0)


def calibration_error(numbers_K: np.ndarray, excesses_K: np.ndarray) -> float:
    """The expected calibration error (Naeini et al. 2015, Guo et al. 2017), 0..1; NaN if empty.

    The mean over examples of the gap between confidence and accuracy within their bin; 0 if of the
    answers given with a confidence of 80 %, 80 % are right, and so for every bin. The arguments are
    those that `judge_confidence` returns.
    """
    return ratio(np.abs(excesses_K).sum(), numbers_K.sum())


def _count_pairs(logits_xC: Any, labels_x: Any, real_x: Any) -> Any:
    """int [C, C]: labelled (rows) and likeliest (columns) classes, where labelled and `real`."""
    # As many axes as the logits: JAX's rank promotion may be switched off.
    classes = np.arange(logits_xC.shape[-1]).reshape((1,) * labels_x.ndim + (-1,))
    labels_xC = (labels_x[..., None] == classes) & real_x[..., None]
    guesses_xC = logits_xC.argmax(-1)[..., None] == classes
    labels_IxC, guesses_IxC = (
        x_xC.reshape(-1, classes.size).astype(np.int32) for x_xC in (labels_xC, guesses_xC)
    )
    return labels_IxC.T @ guesses_IxC
