"""The metrics of an evaluation: functions from strings and counts to floats, and how each is shown.

NumPy and the standard library only, besides sacrebleu and rouge-score for the metrics that they
define.

To add a metric of generated text, write its function and add a row to `TEXT_METRICS`: evaluation
computes it and the report shows it.

A metric of nothing (no labelled example, no token, no pair of texts) is NaN: there was nothing to
measure. Zero would say that the model was bad.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN

# What evaluations during training measure. They generate no response, which would take too long.
MEASURED_IN_TRAINING = (
    *(
        f"{task}_{measure}"
        for task in ("image_emotion", "sequence_emotion")
        for measure in ("accuracy", "macro_f1", "majority_rate")
    ),
    "judge_accuracy",
    "response_perplexity",
    "unigram_perplexity",
)


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
    """`{prefix}_accuracy`, `{prefix}_macro_f1` and `{prefix}_majority_rate` of counts."""
    return {
        f"{prefix}_accuracy": accuracy(confusion),
        f"{prefix}_macro_f1": macro_f1(confusion),
        f"{prefix}_majority_rate": majority_rate(confusion),
    }


def following_metrics(
    expressed_WxC: np.ndarray, different_W: Sequence[int]
) -> tuple[dict[str, float], np.ndarray]:
    """Of responses to W windows, each with a face of every emotion in turn.

    Args:
      expressed_WxC: emotion ids found in the responses; the face shown with column c has emotion c.
      different_W: how many of a window's responses differ.

    Returns:
      ({"emotion_following": the share of responses with the emotion shown, "…_standard_error",
      "…_macro_f1", "…_distinct" and "…_chance"}, the confusion matrix: emotions shown in rows).
    """
    shown_WxC = np.broadcast_to(np.arange(NUM_EMOTIONS), expressed_WxC.shape)
    share_W = (expressed_WxC == shown_WxC).mean(axis=1)
    confusion = confusion_matrix(shown_WxC, expressed_WxC)
    name = "emotion_following"
    return {
        name: accuracy(confusion),
        f"{name}_standard_error": bootstrap_error(share_W),
        f"{name}_macro_f1": macro_f1(confusion),
        f"{name}_distinct": float(np.mean(different_W)),
        f"{name}_chance": 1 / NUM_EMOTIONS,
    }, confusion


def bootstrap_error(values: np.ndarray, resamples: int = 2000) -> float:
    """Standard error of the mean of `values`, by the bootstrap (Efron 1979): with replacement.

    A pure function of its arguments.
    """
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(values), size=(resamples, len(values)))
    return float(np.asarray(values)[drawn].mean(axis=1).std())


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
    return perplexity(-float(counts_V @ log_probability_V), float(counts_V.sum()))


def text_metrics(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Every row of `TEXT_METRICS` for generated texts and one reference for each.

    Returns:
      {name: value}. For a metric of the texts alone, also the references' value as
      `reference_{name}`. All are NaN when there are no texts.

    Raises:
      ValueError: the lists differ in length.
    """
    if len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts but {len(references)} references")
    values = {}
    for metric in TEXT_METRICS:
        if metric.of_pairs:
            values[metric.name] = metric.of_pairs(texts, references)
        elif metric.of_texts:
            values[metric.name] = metric.of_texts(texts)
            values[f"reference_{metric.name}"] = metric.of_texts(references)
    return values


def bleu(texts: Sequence[str], references: Sequence[str], order: int) -> float:
    """Corpus BLEU-`order` in percent, by sacrebleu, as OpenViDial defines it.

    The geometric mean of the precisions of 1- to `order`-grams (cumulative), times the brevity
    penalty (Papineni et al. 2002); one reference, case-sensitive, no smoothing, so that it is 0
    when no n-gram of the corpus matches. Tokens are those of sacrebleu's 13a, which splits off
    punctuation much as the Moses tokenizer does.
    """
    from sacrebleu.metrics import BLEU

    if not texts:
        return math.nan
    scorer = BLEU(tokenize="13a", smooth_method="none", max_ngram_order=order, force=True)
    return float(scorer.corpus_score(list(texts), [list(references)]).score)


def rouge(texts: Sequence[str], references: Sequence[str], kind: str) -> float:
    """Mean ROUGE F1 in percent, by rouge-score (Lin 2004).

    Each pair is scored alone and the scores are averaged. Tokens are lower-case runs of letters
    and digits, not stemmed; a pair in which either side has none scores 0.

    Args:
      kind: "rouge1", "rouge2" or "rougeL".
    """
    from rouge_score.rouge_scorer import RougeScorer

    if not texts:
        return math.nan
    scorer = RougeScorer([kind], use_stemmer=False)
    pairs = zip(texts, references, strict=True)
    return 100 * float(np.mean([scorer.score(ref, text)[kind].fmeasure for text, ref in pairs]))


def distinct(texts: Sequence[str], n: int) -> float:
    """Dist-n (Li et al. 2016): distinct n-grams over all n-grams of the corpus; 0..1.

    Words are what white space separates. The n-grams of all texts are counted together, as
    OpenViDial does, so the value falls as the corpus grows: compare only corpora of one size. 0
    when texts are too short to have any n-gram; NaN when there are no texts.
    """
    counts = collections.Counter(_ngrams(texts, n))
    if not counts:
        return 0.0 if texts else math.nan
    return len(counts) / counts.total()


def ngram_entropy(texts: Sequence[str], n: int) -> float:
    """Entropy of the corpus's n-gram frequencies in nats (Ent-n of Zhang et al. 2018).

    Unlike Dist-n it tells a stock phrase from evenly used ones. 0 when texts are too
    short to have any n-gram; NaN when there are no texts.
    """
    counts = np.array(list(collections.Counter(_ngrams(texts, n)).values()), np.float64)
    if not counts.size:
        return 0.0 if texts else math.nan
    shares = counts / counts.sum()
    return max(0.0, -float(shares @ np.log(shares)))  # max: -0.0 reads badly


def mean_words(texts: Sequence[str]) -> float:
    """Words per text, separated by white space; NaN when there are no texts."""
    return _ratio(sum(len(text.split()) for text in texts), len(texts))


def _ngrams(texts: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    for text in texts:
        words = text.split()
        yield from zip(*(words[i:] for i in range(n)), strict=False)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator) / float(denominator) if denominator else math.nan


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric: how a report shows it and, if it is one of generated text, how it is computed.

    Attributes:
      name: the key in summary.json.
      title: in a table.
      better: 1 = higher is better, -1 = lower is better, 0 = neither.
      format: of a value, for `str.format`.
      explanation: one sentence for a reader who does not know the metric.
      of_texts, of_pairs: (texts) -> float, or (texts, references) -> float; neither for a metric
        of something else than generated text.
      baseline: (name of the value to beat, what that is). Without one, the references' own value,
        `reference_{name}`, is shown for comparison where there is one.
      headline: its title as one of the report's large figures; "" = it is not one.
    """

    name: str
    title: str
    better: int
    format: str
    explanation: str
    of_texts: Callable[[Sequence[str]], float] | None = None
    of_pairs: Callable[[Sequence[str], Sequence[str]], float] | None = None
    baseline: tuple[str, str] = ("", "")
    headline: str = ""


TEXT_METRICS = (
    Metric("bleu_1", "BLEU-1", 1, "{:.2f}",
           "Words shared with the true response, in percent, less a brevity penalty.",
           of_pairs=partial(bleu, order=1)),
    Metric("bleu_2", "BLEU-2", 1, "{:.2f}", "The same with pairs of words as well.",
           of_pairs=partial(bleu, order=2)),
    Metric("bleu_3", "BLEU-3", 1, "{:.2f}", "The same with runs of up to three words.",
           of_pairs=partial(bleu, order=3)),
    Metric("bleu_4", "BLEU-4", 1, "{:.2f}", "The same with runs of up to four words.",
           of_pairs=partial(bleu, order=4)),
    Metric("rouge_1", "ROUGE-1", 1, "{:.2f}",
           "Overlap of words, precision and recall balanced (F1), in percent.",
           of_pairs=partial(rouge, kind="rouge1")),
    Metric("rouge_2", "ROUGE-2", 1, "{:.2f}", "The same with pairs of words.",
           of_pairs=partial(rouge, kind="rouge2")),
    Metric("rouge_l", "ROUGE-L", 1, "{:.2f}", "The same with the longest common subsequence.",
           of_pairs=partial(rouge, kind="rougeL")),
    Metric("dist_1", "Dist-1", 1, "{:.4f}",
           "Distinct words over all words generated: low means the same words over and over.",
           partial(distinct, n=1)),
    Metric("dist_2", "Dist-2", 1, "{:.4f}", "The same with pairs of words.",
           partial(distinct, n=2)),
    Metric("dist_3", "Dist-3", 1, "{:.4f}", "The same with runs of three words.",
           partial(distinct, n=3)),
    Metric("dist_4", "Dist-4", 1, "{:.4f}", "The same with runs of four words.",
           partial(distinct, n=4)),
    Metric("entropy_4", "Entropy-4", 1, "{:.2f}",
           "How evenly runs of four words are used, in nats: low means stock phrases.",
           partial(ngram_entropy, n=4)),
    Metric("mean_words", "Mean length", 0, "{:.1f}", "Words per response.", mean_words),
)  # fmt: skip

# What a report shows, group by group: every metric of an evaluation, besides the baselines.
GROUPS: dict[str, tuple[Metric, ...]] = {
    "Emotion following": (
        Metric("emotion_following", "Emotion following", 1, "{:.1%}",
               "The same words, answered once for a face of each emotion: share of responses in "
               "which a labeller that took no part in training finds the emotion of the face.",
               baseline=("emotion_following_chance", "chance"),
               headline="responses that follow the face"),
        Metric("emotion_following_standard_error", "Its standard error", 0, "{:.1%}",
               "How far the share would differ with other conversations (bootstrap)."),
        Metric("emotion_following_second", "Emotion following, second labeller", 1, "{:.1%}",
               "The same share, the responses read by a classifier learnt from human labels: it "
               "shares neither words nor data with the first.",
               baseline=("emotion_following_chance", "chance")),
        Metric("emotion_following_second_standard_error", "Its standard error", 0, "{:.1%}",
               "As above."),
        Metric("emotion_following_second_macro_f1", "Macro-F1 by the second labeller", 1, "{:.3f}",
               "Mean F1 over the emotions, by the second labeller."),
        Metric("emotion_following_macro_f1", "Emotion following macro-F1", 1, "{:.3f}",
               "Mean F1 over the emotions; low if the model expresses the same emotion for every "
               "face."),
        Metric("emotion_following_distinct", "Different responses to seven faces", 1, "{:.2f}",
               "Of the seven responses to the same words, how many differ."),
    ),
    "Emotion seen": (
        Metric("image_emotion_accuracy", "Face emotion accuracy", 1, "{:.1%}",
               "Share of faces, none of them seen in training, whose emotion is named correctly.",
               baseline=("image_emotion_majority_rate", "always the commonest"),
               headline="faces named correctly"),
        Metric("image_emotion_macro_f1", "Face emotion macro-F1", 1, "{:.3f}",
               "Mean F1 over the emotions: a rare one counts as much as a common one."),
        Metric("sequence_emotion_accuracy", "Sequence emotion accuracy", 1, "{:.1%}",
               "Share of image sequences whose emotion is named correctly.",
               baseline=("sequence_emotion_majority_rate", "always the commonest")),
        Metric("sequence_emotion_macro_f1", "Sequence emotion macro-F1", 1, "{:.3f}",
               "Mean F1 over the emotions of sequences."),
    ),
    "Response predicted": (
        Metric("response_perplexity", "Response perplexity", -1, "{:.1f}",
               "How many equally likely tokens the model hesitates between at each place of the "
               "true response.",
               baseline=("unigram_perplexity", "word frequencies alone"),
               headline="response perplexity"),
        Metric("judge_accuracy", "Judge accuracy", 1, "{:.1%}",
               "Share of true responses whose emotion the run's own judge finds in their words."),
    ),
    "Response generated": (
        Metric("response_emotion_accuracy", "Response emotion accuracy", 1, "{:.1%}",
               "Share of generated responses in which a labeller that took no part in training "
               "finds the emotion of the true response.",
               baseline=("response_emotion_majority_rate", "always the commonest"),
               headline="responses with the emotion meant"),
        Metric("response_emotion_macro_f1", "Response emotion macro-F1", 1, "{:.3f}",
               "Mean F1 over the emotions of generated responses, by the same labeller."),
        *TEXT_METRICS,
    ),
}  # fmt: skip
