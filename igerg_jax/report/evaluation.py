"""The report's figures of evaluation: headline, metrics, confusions, scores by emotion."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from igerg_jax import metrics, prediction_metrics
from igerg_jax.batch import EMOTIONS
from igerg_jax.metrics import Metric
from igerg_jax.report.templates import finite

TITLES = {"valid": "Validation", "test_style": "Test, another artist's faces", "test": "Test"}


def by_split(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values of summary.json by the split's title; the last split leads the report.

    "valid" comes first and "test" last, with any other splits between them.
    """
    place = {"valid": 0, "test": 2}
    values = values if isinstance(values, Mapping) else {}
    names = sorted((name for name in values if values[name]), key=lambda n: place.get(n, 1))
    return {TITLES.get(name, f"Split '{name}'"): values[name] for name in names}


def _leading(evaluation: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    return list(evaluation.values())[-1] if evaluation else {}


def headline(
    evaluation: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The metrics of the leading split that are shown as large figures.

    Args:
      evaluation, sizes: summary.json's, by the split's title.

    Returns:
      {"metric", "value", "error", "faces", "bars", "worse"}: bars are (label, value, share of the
      scale, CSS class) of this model and of its baseline; `worse`: the model does not beat its
      baseline; `faces`: how many different ones there were, for metrics of faces.
    """
    faces = _leading(sizes).get("faces")
    figures, values = [], _leading(evaluation)
    for metric in metrics.rows():
        if not metric.headline or not finite(values.get(metric.name)):
            continue
        value, (other, label, _) = values[metric.name], metric.baseline
        worse = falls_short(metric, values)
        known = [("this model", value, "ours worse" if worse else "ours")]
        if finite(values.get(other)):
            known.append((label, values[other], "base"))
        scale = max(1.0 if "%" in metric.format else 0.0, *(bar[1] for bar in known), 1e-9)
        bars = [(text, number, number / scale, kind) for text, number, kind in known]
        figures.append(
            {
                "metric": metric,
                "value": value,
                "error": values.get(metric.name + metrics.STANDARD_ERROR),
                "faces": faces if metric.counts is prediction_metrics.image_emotions else None,
                "bars": bars,
                "worse": worse,
            }
        )
    return figures


def falls_short(metric: Metric, values: Mapping[str, Any]) -> bool:
    """Whether a value is no better than its baseline; not where either is absent."""
    value, baseline = values.get(metric.name), values.get(metric.baseline.name)
    if value is None or baseline is None or not (finite(value) and finite(baseline)):
        return False
    return bool(metric.better) and (value - baseline) * metric.better <= 0


def metric_groups(evaluation: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the metric table by group.

    Returns:
      {group: rows {"metric", "values" (one per split: the value, its standard error), "beside",
      "label", "worse"}}: `beside` is the value to compare the leading split's with, None where
      there is none, and `label` what it is.
    """
    leading = _leading(evaluation)
    reported = {name for values in evaluation.values() for name in values}
    known = metrics.by_name()
    beside = {m.baseline.name for m in known.values()}
    beside |= {f"reference_{n}" for n in known} | {n + metrics.STANDARD_ERROR for n in known}
    # Metrics of an older or newer version are shown rather than dropped.
    rest = [Metric(n, n, 0, "{:.4g}", "") for n in sorted(reported - known.keys() - beside)]
    groups = {}
    for title, members in {**metrics.GROUPS, "Other": rest}.items():
        rows = [_metric_row(m, evaluation, leading) for m in members if m.name in reported]
        if rows:
            groups[title] = rows
    return groups


def _metric_row(
    metric: Metric, evaluation: Mapping[str, Mapping[str, Any]], leading: Mapping[str, Any]
) -> dict[str, Any]:
    other, label, _ = metric.baseline
    if not finite(leading.get(other)):
        other, label = f"reference_{metric.name}", "people's responses"
    return {
        "metric": metric,
        "values": [
            (values.get(metric.name), values.get(metric.name + metrics.STANDARD_ERROR))
            for values in evaluation.values()
        ],
        "beside": leading[other] if finite(leading.get(other)) else None,
        "label": label,
        "worse": falls_short(metric, leading),
    }


def word_list(labels: Any) -> str:
    """Whether the word list (`igerg_jax.lexicon`) also labelled a run's data, in a sentence.

    Args:
      labels: summary.json's: {dataset: where its labels come from}.
    """
    if not isinstance(labels, Mapping) or not labels:
        return "If the word list also labelled the data, the model has learned from its labels."
    labelled = " and ".join(name for name, origin in labels.items() if origin == "word list")
    if labelled:
        return (
            f"The word list also gave {labelled} its labels, from which the model has learned: "
            "only a labeller that was trained on other data is independent of them."
        )
    return "The word list labelled none of this run's data."


def cuts(shares: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """{split's title: its values of summary.json's "cut"}, where all of them are numbers."""
    return _with_numbers(shares, "contexts", "responses", "context_tokens", "response_tokens")


def sizes(counts: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """{split's title: its values of summary.json's "sizes"}, where all of them are numbers."""
    return _with_numbers(counts, "windows", "conversations", "faces", "generated")


def _with_numbers(group: Mapping[str, Any] | None, *names: str) -> dict[str, Mapping[str, Any]]:
    """The splits of a group of summary.json in which all of `names` are finite numbers."""
    return {
        title: values
        for title, values in by_split(group).items()
        if isinstance(values, Mapping) and all(finite(values.get(name)) for name in names)
    }


def _is_matrix(value: Any) -> bool:
    """Whether a value read from JSON has a row of numbers for each emotion."""
    rows = value if isinstance(value, list) else []
    return len(rows) == len(EMOTIONS) and all(
        isinstance(row, list) and all(map(finite, row)) for row in rows
    )


def confusions(matrices: Mapping[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """Rows of each split's confusion matrix, the leading split first.

    Returns:
      {title: rows {"name" of the label, "total", "cells" = (count, share of the row) of each
      prediction, "scores" = (precision, recall, F1)}}
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for title, matrix in reversed(by_split(matrices).items()):
        if not _is_matrix(matrix):
            continue
        tables[title] = []
        scores = prediction_metrics.precision_recall_f1(np.array(matrix))
        for name, counts, of_name in zip(EMOTIONS, matrix, scores, strict=True):
            total = sum(counts)
            cells = [(count, count / total if total else 0.0) for count in counts]
            row = {"name": name, "total": total, "cells": cells, "scores": of_name}
            tables[title].append(row)
    return tables
