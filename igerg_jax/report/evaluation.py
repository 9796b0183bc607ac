"""The report's figures of evaluation: headline, metric table, confusion matrices."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from igerg_jax import metrics
from igerg_jax.batch import EMOTIONS
from igerg_jax.metrics import Metric
from igerg_jax.report.text import finite, formatted, missing

SPLITS = {"valid": "Validation", "test": "Test"}

METRICS = {m.name: m for group in metrics.GROUPS.values() for m in group}


def headline(summary: Mapping[str, Any]) -> str:
    """Up to three large figures, each with a bar and its baseline's bar under it."""
    _, values = leading_split(summary)
    cards = []
    for metric in METRICS.values():
        if not metric.headline or not finite(values.get(metric.name)):
            continue
        form, value, (other, what) = metric.format, values[metric.name], metric.baseline
        bars = [("this model", value, "ours")]
        if finite(values.get(other)):
            bars.append((what, values[other], "base"))
        scale = max(1.0 if "%" in form else 0.0, *(b[1] for b in bars)) or 1.0
        rows = "".join(
            f'<span class="meter {kind}"><i style="width:{100 * v / scale:.1f}%"></i></span>'
            f"<span>{text} <b>{form.format(v)}</b></span>"
            for text, v, kind in bars
        )
        hint = " · lower is better" if metric.better < 0 else ""
        cards.append(
            f'<div class="figure"><strong>{form.format(value)}</strong>'
            f"<span>{metric.headline}{hint}</span>{rows}</div>"
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
    reported = {name for s in splits for name in evaluation[s]}
    compared = {m.baseline[0] for m in METRICS.values()} | {f"reference_{n}" for n in METRICS}
    rest = sorted(reported - METRICS.keys() - compared)
    groups = {**metrics.GROUPS, "Other": [Metric(n, n, 0, "{:.4g}", "") for n in rest]}
    body = ""
    for title, members in groups.items():
        rows = "".join(
            _metric_row(m, splits, evaluation, leading) for m in members if m.name in reported
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
    metric: Metric, splits: list[str], evaluation: Mapping[str, Any], leading: Mapping[str, Any]
) -> str:
    name, form = metric.name, metric.format
    cells = "".join(
        f'<td data-label="{SPLITS[s]}">{formatted(evaluation[s], name, form) or "–"}</td>'
        for s in splits
    )
    other, what = metric.baseline
    if not finite(leading.get(other)):
        other, what = f"reference_{name}", "people's responses"
    beside = formatted(leading, other, form)
    if beside:
        beside = f"{beside} <small>{what}</small>"
    kind = "beside" if beside else "beside nothing"
    arrow = {1: "↑", -1: "↓", 0: ""}[metric.better]
    hint = {1: "higher is better", -1: "lower is better", 0: ""}[metric.better]
    mark = f' <span class="arrow" role="img" aria-label="{hint}" title="{hint}">{arrow}</span>'
    title = f"{html.escape(metric.title)}{mark if arrow else ''}"
    return (
        f'<tr><th scope="row">{title}<small>{metric.explanation}</small></th>'
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
