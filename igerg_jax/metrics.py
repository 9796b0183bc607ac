"""The metrics of an evaluation: functions from predictions to floats, and how each is shown.

NumPy and the standard library only. The functions of predictions are in
`igerg_jax.prediction_metrics`, those of texts in `igerg_jax.text_metrics`.

To add a metric, write its function there and add a row to `GROUPS`: evaluation computes it, the
report shows it, and evaluations during training measure it where it needs no generated text.

A metric with nothing to measure (no labelled example, no token, no pair of texts) is NaN. Zero
would say that the model was bad.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from igerg_jax import text_labeller, text_metrics
from igerg_jax.prediction_metrics import (
    Predicted,
    accuracy,
    calibration_error,
    image_emotions,
    judge_confidence,
    judged_emotions,
    macro_f1,
    majority_rate,
    response_likelihood,
    sequence_emotions,
)
from igerg_jax.text_metrics import perplexity, ratio


def counts(predicted: Predicted) -> dict[str, Any]:
    """{metric: its counts over a batch}, for every row of `GROUPS` with `counts`.

    Counts of batches add up. Unlabelled examples and padding add nothing.
    """
    return {metric.name: metric.counts(predicted) for metric in rows() if metric.counts}


def of_counts(sums: Mapping[str, Any]) -> dict[str, float]:
    """The metrics and their baselines, from `counts` summed over batches."""
    values = {}
    for metric in rows():
        if metric.counts:
            arguments = sums[metric.name]
            arguments = arguments if isinstance(arguments, tuple) else (arguments,)
            values[metric.name] = metric.of_counts(*arguments)
            if metric.baseline.of_counts:
                values[metric.baseline.name] = metric.baseline.of_counts(*arguments)
    return values


def measured_in_training() -> list[str]:
    """Names of what evaluations during training measure, without generating: that takes long."""
    counted = [metric for metric in rows() if metric.counts]
    baselines = [metric.baseline.name for metric in counted if metric.baseline.name]
    return [metric.name for metric in counted] + baselines


def of_texts(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Every text metric of `GROUPS`, for generated texts and one reference for each.

    Returns:
      {name: value}. For a metric that needs no references, and one with `of_people`, also the
      references' own value as `reference_{name}`. All are NaN when there are no texts.

    Raises:
      ValueError: the lists differ in length.
    """
    if len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts but {len(references)} references")
    values = {}
    for metric in rows():
        if metric.of_pairs:
            values[metric.name] = metric.of_pairs(texts, references)
            if metric.of_people:
                values[f"reference_{metric.name}"] = metric.of_pairs(references, references)
        elif metric.of_texts:
            values[metric.name] = metric.of_texts(texts)
            values[f"reference_{metric.name}"] = metric.of_texts(references)
    return values


class Baseline(NamedTuple):
    """What a metric is compared with."""

    name: str  # its key in summary.json
    title: str
    of_counts: Callable[..., float] | None = None  # as `Metric`'s; None = computed elsewhere


NO_BASELINE = Baseline("", "")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric: how it is computed, and how a report shows it.

    A metric of predictions has `counts`, one of generated text `of_texts` or `of_pairs`. Rows with
    none of these are measured in `igerg_jax.evaluation`: `following` and `evaluator`.

    Attributes:
      name: the key in summary.json.
      title: in a table.
      better: 1 = higher is better, -1 = lower is better, 0 = neither.
      format: of a value, for `str.format`.
      explanation: one sentence for a reader who does not know the metric.
      of_texts, of_pairs: (texts) -> float, or (texts, references) -> float.
      of_people: whether `of_pairs` says something of the references paired with themselves.
      counts: (predicted) -> a number, an array or a tuple of them, to be summed over batches.
      of_counts: (*those sums) -> float; by default the first over the second.
      baseline: without one, the references' own value, `reference_{name}`, is shown for comparison
        where there is one.
      labeller: which labeller of texts it rests on: "" = the word list or none, else one of
        `text_labeller.ORDINALS`; a report says how well that one does.
      headline: its title as one of the report's large figures; "" = it is not one.
      curve: whether a report draws its values on held-out data, by step.
    """

    name: str
    title: str
    better: int
    format: str
    explanation: str
    of_texts: Callable[[Sequence[str]], float] | None = None
    of_pairs: Callable[[Sequence[str], Sequence[str]], float] | None = None
    of_people: bool = False
    counts: Callable[[Predicted], Any] | None = None
    of_counts: Callable[..., float] = ratio
    baseline: Baseline = NO_BASELINE
    labeller: str = ""
    headline: str = ""
    curve: bool = False


_COMMONEST = "majority class"

# Suffix of the name of a metric's standard error, by the bootstrap over conversations or faces.
STANDARD_ERROR = "_standard_error"


def _following_rows(ordinal: str) -> list[Metric]:
    """Emotion following by a labeller that was learnt."""
    name = f"emotion_following_{ordinal}"
    return [
        Metric(name, f"Emotion following, {ordinal} labeller", 1, "{:.1%}",
               "The same share by a classifier trained on human labels, which has neither words "
               "nor data in common with the word list.",
               baseline=Baseline("emotion_following_chance", "chance"), labeller=ordinal),
        Metric(f"{name}_macro_f1", f"Macro-F1 by the {ordinal} labeller", 1, "{:.3f}",
               f"Mean F1 over the emotions, by the {ordinal} labeller.", labeller=ordinal),
    ]  # fmt: skip


def _response_rows(ordinal: str) -> list[Metric]:
    """The emotions of responses by a labeller that was learnt."""
    by = f"by the {ordinal} labeller; beside it, what that finds in people's responses."
    return [
        Metric(f"response_emotion_accuracy_{ordinal}", f"Response emotion, {ordinal} labeller", 1,
               "{:.1%}", f"Share of responses with the emotion of the true one, {by}",
               labeller=ordinal),
        Metric(f"response_emotion_macro_f1_{ordinal}", f"Its macro-F1, {ordinal} labeller", 1,
               "{:.3f}", f"Mean F1 over the emotions, {by}", labeller=ordinal),
        Metric(f"response_emotion_non_neutral_accuracy_{ordinal}",
               f"Neutral left out, {ordinal} labeller", 1, "{:.1%}",
               f"The share over true responses that are not neutral, {by}", labeller=ordinal),
    ]  # fmt: skip


# Every metric of an evaluation besides the baselines, group by group as a report shows them.
GROUPS: dict[str, tuple[Metric, ...]] = {
    "Emotion following": (
        Metric("emotion_following", "Emotion following", 1, "{:.1%}",
               "The same words, answered once for a face of each emotion: share of responses in "
               "which the word list finds the emotion of the face.",
               baseline=Baseline("emotion_following_chance", "chance"),
               headline="responses that follow the face"),
        Metric("emotion_following_macro_f1", "Emotion following macro-F1", 1, "{:.3f}",
               "Mean F1 over the emotions; low if the model expresses the same emotion for every "
               "face."),
        Metric("emotion_following_distinct", "Different responses to seven faces", 1, "{:.2f}",
               "Of the seven responses to the same words, how many differ."),
        *(metric for ordinal in text_labeller.ORDINALS for metric in _following_rows(ordinal)),
    ),
    "Emotion seen": (
        Metric("image_emotion_accuracy", "Face emotion accuracy", 1, "{:.1%}",
               "Share of labelled faces whose emotion is named correctly.",
               counts=image_emotions, of_counts=accuracy,
               baseline=Baseline("image_emotion_majority_rate", _COMMONEST, majority_rate),
               headline="faces named correctly", curve=True),
        Metric("image_emotion_macro_f1", "Face emotion macro-F1", 1, "{:.3f}",
               "Mean F1 over the emotions: a rare one counts as much as a common one.",
               counts=image_emotions, of_counts=macro_f1),
        Metric("sequence_emotion_accuracy", "Sequence emotion accuracy", 1, "{:.1%}",
               "Share of image sequences whose emotion is named correctly.",
               counts=sequence_emotions, of_counts=accuracy,
               baseline=Baseline("sequence_emotion_majority_rate", _COMMONEST, majority_rate),
               curve=True),
        Metric("sequence_emotion_macro_f1", "Sequence emotion macro-F1", 1, "{:.3f}",
               "Mean F1 over the emotions of sequences.",
               counts=sequence_emotions, of_counts=macro_f1),
    ),
    "Response predicted": (
        Metric("response_perplexity", "Response perplexity", -1, "{:.1f}",
               "Among how many equally likely tokens the model in effect chooses at each position "
               "of the true response.",
               counts=response_likelihood, of_counts=perplexity,
               baseline=Baseline("unigram_perplexity", "word frequencies alone"),
               headline="response perplexity", curve=True),
        Metric("judge_accuracy", "Judge accuracy", 1, "{:.1%}",
               "Share of true responses whose emotion the run's own judge finds in their words.",
               counts=judged_emotions, of_counts=accuracy),
        Metric("judge_calibration_error", "Judge calibration error", -1, "{:.1%}",
               "How far the judge's probability for the emotion that it finds is from the share in "
               "which that is right, on average.",
               counts=judge_confidence,
               of_counts=calibration_error),
    ),
    "Response generated": (
        Metric("response_emotion_accuracy", "Response emotion accuracy", 1, "{:.1%}",
               "Share of generated responses in which the word list finds the emotion of the true "
               "response.",
               baseline=Baseline("response_emotion_majority_rate", _COMMONEST),
               headline="responses with the emotion meant"),
        Metric("response_emotion_macro_f1", "Response emotion macro-F1", 1, "{:.3f}",
               "Mean F1 over the emotions of generated responses, by the word list."),
        Metric("response_emotion_non_neutral_accuracy", "Response emotion, neutral left out", 1,
               "{:.1%}", "The share, over true responses with an emotion other than neutral."),
        *(metric for ordinal in text_labeller.ORDINALS for metric in _response_rows(ordinal)),
        Metric("bleu_1", "BLEU-1", 1, "{:.2f}",
               "Words shared with the true response, in percent, less a brevity penalty.",
               of_pairs=partial(text_metrics.bleu, order=1)),
        Metric("bleu_2", "BLEU-2", 1, "{:.2f}", "The same with pairs of words as well.",
               of_pairs=partial(text_metrics.bleu, order=2)),
        Metric("bleu_3", "BLEU-3", 1, "{:.2f}", "The same with runs of up to three words.",
               of_pairs=partial(text_metrics.bleu, order=3)),
        Metric("bleu_4", "BLEU-4", 1, "{:.2f}", "The same with runs of up to four words.",
               of_pairs=partial(text_metrics.bleu, order=4)),
        *(Metric(f"moses_bleu_{n}", f"BLEU-{n}, Moses tokens", 1, "{:.2f}",
                 f"BLEU-{n} of the Moses tokenizer's tokens, as older work has it.",
                 of_pairs=partial(text_metrics.bleu, order=n, tokens="moses"))
          for n in range(1, 5)),
        Metric("meteor", "METEOR", 1, "{:.2f}",
               "Words shared, by stem too, but not by meaning, in percent: recall counts most, and "
               "another order costs.",
               of_pairs=text_metrics.meteor),
        Metric("cider", "CIDEr-D", 1, "{:.3f}",
               "Runs of up to four words shared with the true response, rare ones counting most; "
               "10 at best.",
               of_pairs=text_metrics.cider),
        Metric("similarity", "BERTScore", 1, "{:.3f}",
               "How alike an encoder finds each token of the true response and the closest of the "
               "generated one, and the reverse."),
        Metric("rouge_1", "ROUGE-1", 1, "{:.2f}",
               "Overlap of words, precision and recall balanced (F1), in percent.",
               of_pairs=partial(text_metrics.rouge, kind="rouge1")),
        Metric("rouge_2", "ROUGE-2", 1, "{:.2f}", "The same with pairs of words.",
               of_pairs=partial(text_metrics.rouge, kind="rouge2")),
        Metric("rouge_l", "ROUGE-L", 1, "{:.2f}", "The same with the longest common subsequence.",
               of_pairs=partial(text_metrics.rouge, kind="rougeL")),
        Metric("dist_1", "Dist-1", 1, "{:.4f}",
               "Distinct words over all words generated: low means the same words over and over.",
               partial(text_metrics.distinct, n=1)),
        Metric("dist_2", "Dist-2", 1, "{:.4f}", "The same with pairs of words.",
               partial(text_metrics.distinct, n=2)),
        Metric("dist_3", "Dist-3", 1, "{:.4f}", "The same with runs of three words.",
               partial(text_metrics.distinct, n=3)),
        Metric("dist_4", "Dist-4", 1, "{:.4f}", "The same with runs of four words.",
               partial(text_metrics.distinct, n=4)),
        Metric("dist_adjusted", "Distinct, adjusted", 1, "{:.3f}",
               "Distinct words over as many as equal draws from people's words would have: it does "
               "not fall with length.",
               of_pairs=text_metrics.distinct_adjusted, of_people=True),
        Metric("entropy_4", "Entropy-4", 1, "{:.2f}",
               "How evenly runs of four words are used, in nats: low means stock phrases.",
               partial(text_metrics.ngram_entropy, n=4)),
        Metric("mean_words", "Mean length", 0, "{:.1f}", "Words per response.",
               text_metrics.mean_words),
    ),
}  # fmt: skip


def rows() -> list[Metric]:
    """Every row of `GROUPS`."""
    return [metric for group in GROUPS.values() for metric in group]


def by_name() -> dict[str, Metric]:
    """Every row of `GROUPS` by its name."""
    return {metric.name: metric for metric in rows()}
