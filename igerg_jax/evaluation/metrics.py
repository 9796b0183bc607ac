"""Strings and counts to floats: what an evaluation reports. NumPy and the standard library only,
beside sacrebleu and rouge-score for what they define.

A metric of nothing (no labelled example, no token, no pair of texts) is NaN, which says that
there was nothing to measure; 0 would say that the model was bad.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Sequence

import numpy as np

from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN

MAX_NGRAM = 4  # BLEU-1..4 and Dist-1..4


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
    labels = labels[known].astype(np.int64)
    predictions = predictions[known].astype(np.int64)
    for name, ids in (("label", labels), ("prediction", predictions)):
        if ids.size and (ids.min() < 0 or ids.max() >= classes):
            raise ValueError(f"a {name} is outside 0..{classes - 1}: {ids.min()}..{ids.max()}")
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes)


def accuracy(confusion: np.ndarray) -> float:
    """Share of labelled examples on the diagonal of a `confusion_matrix`; 0..1, NaN if empty."""
    return _ratio(np.trace(confusion), np.sum(confusion))


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the classes that occur as a label or as a prediction; 0..1, NaN if empty.

    A class that nobody named and nobody predicted has no F1; one that was predicted but never
    right has 0. This is what scikit-learn's `f1_score(average="macro")` does.
    """
    hits_C = np.diag(confusion).astype(np.float64)
    seen_C = confusion.sum(axis=0) + confusion.sum(axis=1)  # 2 TP + FP + FN
    occurs_C = seen_C > 0
    if not occurs_C.any():
        return math.nan
    return float(np.mean(2 * hits_C[occurs_C] / seen_C[occurs_C]))


def majority_rate(confusion: np.ndarray) -> float:
    """Accuracy of always answering the commonest label; 0..1, NaN if empty."""
    return _ratio(np.max(confusion.sum(axis=1)), np.sum(confusion))


def classification_metrics(prefix: str, confusion: np.ndarray) -> dict[str, float]:
    """`{prefix}_accuracy`, `{prefix}_macro_f1`, `{prefix}_majority_rate` of a `confusion_matrix`.

    Matrices of batches may be summed first.
    """
    return {
        f"{prefix}_accuracy": accuracy(confusion),
        f"{prefix}_macro_f1": macro_f1(confusion),
        f"{prefix}_majority_rate": majority_rate(confusion),
    }


def perplexity(loss_sum: float, count: float) -> float:
    """exp of the mean negative log-likelihood (nats) of `count` tokens; NaN if there are none."""
    if count <= 0:
        return math.nan
    try:
        return math.exp(loss_sum / count)
    except OverflowError:
        return math.inf


def unigram_perplexity(train_counts_V: np.ndarray, counts_V: np.ndarray) -> float:
    """Perplexity of a text under token frequencies alone: what a language model must beat.

    Args:
      train_counts_V: how often each token id occurs in the training text; integers [V].
      counts_V: the same for the text that is scored; integers [V].

    Returns:
      The perplexity under the training frequencies with one added to each count, so that a
      token that training never saw keeps some probability. NaN when `counts_V` is all 0.
    """
    smoothed_V = np.asarray(train_counts_V, np.float64) + 1.0
    log_probability_V = np.log(smoothed_V) - np.log(smoothed_V.sum())
    counts_V = np.asarray(counts_V, np.float64)
    if counts_V.shape != smoothed_V.shape:
        raise ValueError(f"counts of {counts_V.size} and of {smoothed_V.size} token ids")
    return perplexity(-float(counts_V @ log_probability_V), float(counts_V.sum()))


def text_metrics(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """What a set of generated texts is like, and how close each is to its reference.

    Args:
      hypotheses: the generated texts.
      references: one reference for each.

    Returns:
      bleu_1..bleu_4, rouge_1, rouge_2, rouge_l (percent), dist_1..dist_4 (0..1), entropy_4
      (nats) and mean_words; see `bleu`, `rouge`, `distinct` and `ngram_entropy`. All NaN when
      there are no texts.

    Raises:
      ValueError: the lists differ in length.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses but {len(references)} references")
    words = [text.split() for text in hypotheses]
    metrics = bleu(hypotheses, references) | rouge(hypotheses, references)
    metrics |= {f"dist_{n}": distinct(words, n) for n in range(1, MAX_NGRAM + 1)}
    metrics["entropy_4"] = ngram_entropy(words, 4)
    metrics["mean_words"] = _ratio(sum(map(len, words)), len(words))
    return metrics


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU-1..4 in percent, by sacrebleu, as OpenViDial defines it.

    BLEU-n is the geometric mean of the precisions of 1- to n-grams (cumulative), times the
    brevity penalty (Papineni et al. 2002); one reference, case kept, no smoothing, so that
    BLEU-n is 0 when no n-gram of the whole corpus matches. Tokens are those of sacrebleu's 13a,
    which splits off punctuation much as the Moses tokenizer does.
    """
    from sacrebleu.metrics import BLEU

    names = [f"bleu_{n}" for n in range(1, MAX_NGRAM + 1)]
    if not hypotheses:
        return dict.fromkeys(names, math.nan)
    scorer = BLEU(tokenize="13a", smooth_method="none", max_ngram_order=MAX_NGRAM, force=True)
    corpus = scorer.corpus_score(list(hypotheses), [list(references)])

    def of_order(n: int) -> float:
        return BLEU.compute_bleu(
            corpus.counts[:n],
            corpus.totals[:n],
            corpus.sys_len,
            corpus.ref_len,
            smooth_method="none",
            max_ngram_order=n,
        ).score

    return {name: float(of_order(n)) for n, name in enumerate(names, 1)}


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-1, -2 and -L F1 in percent, by rouge-score (Lin 2004).

    Each pair is scored alone and the scores are averaged. Its tokens are lower-case runs of
    letters and digits, not stemmed; a pair in which either side has none scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    if not hypotheses:
        return dict.fromkeys(names, math.nan)
    scorer = RougeScorer(list(names.values()), use_stemmer=False)
    scores = [scorer.score(ref, hyp) for hyp, ref in zip(hypotheses, references, strict=True)]
    return {
        ours: 100 * float(np.mean([s[key].fmeasure for s in scores])) for ours, key in names.items()
    }


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Dist-n (Li et al. 2016): different n-grams over all n-grams of the corpus; 0..1.

    The n-grams of all texts are counted together, as OpenViDial does, so that the value falls
    as the corpus grows: compare only corpora of one size. 0 when texts are too short to have
    any n-gram; NaN when there are no texts.
    """
    counts = collections.Counter(_ngrams(texts, n))
    if not counts:
        return 0.0 if texts else math.nan
    return len(counts) / counts.total()


def ngram_entropy(texts: Sequence[Sequence[str]], n: int) -> float:
    """Entropy of the corpus's n-gram frequencies in nats (Ent-n of Zhang et al. 2018).

    Unlike Dist-n it tells one often repeated phrase from evenly used ones. 0 when texts are too
    short to have any n-gram; NaN when there are no texts.
    """
    counts = np.array(list(collections.Counter(_ngrams(texts, n)).values()), np.float64)
    if not counts.size:
        return 0.0 if texts else math.nan
    shares = counts / counts.sum()
    return max(0.0, -float(shares @ np.log(shares)))  # max: -0.0 reads badly


def _ngrams(texts: Sequence[Sequence[str]], n: int) -> Iterator[tuple[str, ...]]:
    for words in texts:
        yield from zip(*(words[i:] for i in range(n)), strict=False)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator) / float(denominator) if denominator else math.nan
