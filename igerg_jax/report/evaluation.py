"""The report's figures of evaluation: headline, metric table, confusion matrices."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from igerg_jax.batch import EMOTIONS
from igerg_jax.report.text import finite, formatted, missing

SPLITS = {"valid": "Validation", "test": "Test"}

# (title, ((name, label, direction, format, explanation), ...)); +1 = higher is better.
METRICS = (
    (
        "Emotion seen",
        (
            ("image_emotion_accuracy", "Face emotion accuracy", 1, "{:.1%}",
             "Share of faces, none of them seen in training, whose emotion is named right."),
            ("image_emotion_macro_f1", "Face emotion macro-F1", 1, "{:.3f}",
             "Mean F1 over the emotions: a rare one counts as much as a common one."),
            ("sequence_emotion_accuracy", "Sequence emotion accuracy", 1, "{:.1%}",
             "The same for the emotion of a whole image sequence."),
            ("sequence_emotion_macro_f1", "Sequence emotion macro-F1", 1, "{:.3f}",
             "Mean F1 over the emotions of sequences."),
        ),
    ),
    (
        "Response predicted",
        (
            ("response_perplexity", "Response perplexity", -1, "{:.1f}",
             "Among how many equally likely tokens the model wavers at each place of the true "
             "response."),
        ),
    ),
    (
        "Response generated",
        (
            ("response_emotion_accuracy", "Response emotion accuracy", 1, "{:.1%}",
             "Share of generated responses in which a labeller that took no part in training "
             "finds the emotion of the true response."),
            ("bleu_1", "BLEU-1", 1, "{:.2f}",
             "Words shared with the true response, in percent, less a penalty for brevity."),
            ("bleu_2", "BLEU-2", 1, "{:.2f}", "The same with pairs of words as well."),
            ("bleu_3", "BLEU-3", 1, "{:.2f}", "… with runs of up to three words."),
            ("bleu_4", "BLEU-4", 1, "{:.2f}", "… with runs of up to four words."),
            ("rouge_1", "ROUGE-1", 1, "{:.2f}",
             "Overlap of words, precision and recall balanced (F1), in percent."),
            ("rouge_2", "ROUGE-2", 1, "{:.2f}", "The same with pairs of words."),
            ("rouge_l", "ROUGE-L", 1, "{:.2f}", "The same with the longest common sequence."),
            ("dist_1", "Dist-1", 1, "{:.4f}",
             "Different words over all words generated: low means always the same words."),
            ("dist_2", "Dist-2", 1, "{:.4f}", "The same with pairs of words."),
            ("dist_3", "Dist-3", 1, "{:.4f}", "… with runs of three words."),
            ("dist_4", "Dist-4", 1, "{:.4f}", "… with runs of four words."),
            ("entropy_4", "Entropy-4", 1, "{:.2f}",
             "How evenly runs of four words are used, in nats: low means stock phrases."),
            ("mean_words", "Mean length", 0, "{:.1f}", "Words in a generated response."),
        ),
    ),
)  # fmt: skip
# What a metric is compared with, where it is not the references' own value (`reference_<name>`).
BASELINES = {
    "image_emotion_accuracy": ("image_emotion_majority_rate", "always the commonest"),
    "sequence_emotion_accuracy": ("sequence_emotion_majority_rate", "always the commonest"),
    "response_emotion_accuracy": ("response_emotion_majority_rate", "always the commonest"),
    "response_perplexity": ("unigram_perplexity", "word frequencies alone"),
}
FORMATS = {m[0]: m[3] for _, metrics in METRICS for m in metrics}
LABELS = {m[0]: m[1] for _, metrics in METRICS for m in metrics}


def headline(summary: Mapping[str, Any]) -> str:
    """Up to three large figures, each with a bar and its baseline's bar under it."""
    _, found = leading_split(summary)
    cards = []
    for name, title in (
        ("image_emotion_accuracy", "faces named right"),
        ("response_perplexity", "response perplexity"),
        ("response_emotion_accuracy", "responses with the emotion meant"),
    ):
        if not finite(found.get(name)):
            continue
        form = FORMATS[name]
        value, (other, what) = found[name], BASELINES[name]
        bars = [("this model", value, "ours")]
        if finite(found.get(other)):
            bars.append((what, found[other], "base"))
        scale = max(1.0 if "%" in form else 0.0, *(b[1] for b in bars)) or 1.0
        rows = "".join(
            f'<span class="meter {kind}"><i style="width:{100 * v / scale:.1f}%"></i></span>'
            f"<span>{text} <b>{form.format(v)}</b></span>"
            for text, v, kind in bars
        )
        hint = "" if "%" in form else " · lower is better"
        cards.append(
            f'<div class="figure"><strong>{form.format(value)}</strong>'
            f"<span>{title}{hint}</span>{rows}</div>"
        )
    return f'<div class="figures">{"".join(cards)}</div>' if cards else ""


def leading_split(summary: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The split whose figures lead the report, and its metrics: test if there is one."""
    evaluation = summary.get("evaluation") or {}
    for split in ("test", "valid"):
        if evaluation.get(split):
            return split, evaluation[split]
    return "", {}


def metric_table(summary: Mapping[str, Any]) -> str:
    evaluation = summary.get("evaluation") or {}
    splits = [s for s in SPLITS if evaluation.get(s)]
    if not splits:
        return missing("This run has not been evaluated yet.")
    _, leading = leading_split(summary)
    found = {name for s in splits for name in evaluation[s]}
    used = {other for other, _ in BASELINES.values()} | {f"reference_{n}" for n in FORMATS}
    rest = sorted(found - FORMATS.keys() - used)
    groups = [*METRICS, ("Other", tuple((n, n, 0, "{:.4g}", "") for n in rest))]
    body = ""
    for title, metrics in groups:
        rows = "".join(
            _metric_row(m, splits, evaluation, leading) for m in metrics if m[0] in found
        )
        if rows:
            span = len(splits) + 2
            body += (
                f'<tbody><tr><th colspan="{span}" scope="rowgroup">{title}</th></tr>{rows}</tbody>'
            )
    heads = "".join(f'<th scope="col">{SPLITS[s]}</th>' for s in splits)
    return (
        '<table class="metrics"><caption class="hidden">Evaluation metrics</caption>'
        f'<thead><tr><th scope="col">Metric</th>{heads}<th scope="col">Compared with</th></tr>'
        "</thead>"
        f"{body}</table>"
    )


def _metric_row(
    metric: tuple, splits: list[str], evaluation: Mapping[str, Any], leading: Mapping[str, Any]
) -> str:
    name, label, direction, form, text = metric
    cells = "".join(
        f'<td data-label="{SPLITS[s]}">{formatted(evaluation[s], name, form) or "–"}</td>'
        for s in splits
    )
    other, what = BASELINES.get(name, ("", ""))
    if not finite(leading.get(other)):
        other, what = f"reference_{name}", "people's responses"
    beside = formatted(leading, other, form)
    if beside:
        beside = f"{beside} <small>{what}</small>"
    kind = "beside" if beside else "beside nothing"
    arrow = {1: "↑", -1: "↓", 0: ""}[direction]
    hint = {1: "higher is better", -1: "lower is better", 0: ""}[direction]
    mark = f' <span class="arrow" role="img" aria-label="{hint}" title="{hint}">{arrow}</span>'
    return (
        f'<tr><th scope="row">{html.escape(label)}{mark if arrow else ""}<small>{text}</small></th>'
        f'{cells}<td data-label="Compared with" class="{kind}">{beside or "–"}</td></tr>'
    )


def confusions(summary: Mapping[str, Any]) -> str:
    matrices = summary.get("confusion_matrix") or {}
    shown = [s for s in ("test", "valid") if matrices.get(s)]
    if not shown:
        return missing("This run has no confusion matrix yet.")
    return "".join(_confusion(matrices[s], SPLITS[s]) for s in shown)


def _confusion(matrix: list[list[int]], title: str) -> str:
    heads = "".join(f'<th scope="col"><span>{n}</span></th>' for n in EMOTIONS)
    rows = ""
    for name, counts in zip(EMOTIONS, matrix, strict=True):
        total = sum(counts)
        cells = ""
        for guess, count in zip(EMOTIONS, counts, strict=True):
            share = count / total if total else 0.0
            shade = "mid high" if share > 0.88 else "mid" if share > 0.6 else ""
            hint = f"{count} of {total} {name} faces seen as {guess}"
            text = f"<small>{share:.0%}</small>" if count else ""
            cells += (
                f'<td class="{shade}" style="--v:{share:.0%}" title="{hint}">{count}{text}</td>'
            )
        rows += f'<tr><th scope="row">{name}</th>{cells}<td class="sum">{total}</td></tr>'
    return (
        f'<div class="scroll"><table class="confusion"><caption>{title}: labelled emotion in rows, '
        "seen emotion in columns; counts, and shares of the row</caption>"
        f'<thead><tr><td></td>{heads}<th scope="col"><span>faces</span></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
