"""The report's tables of how responses carry an emotion, and of what guidance buys and costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from igerg_jax.batch import EMOTIONS
from igerg_jax.report import charts
from igerg_jax.report.evaluation import by_split
from igerg_jax.report.templates import finite, formatted


class Column(NamedTuple):
    """A column of a table: its key in the file, its title, and how a value is written."""

    name: str
    title: str
    format: str


CUES = (
    Column("with_cue", "with a cue", "{:.0%}"),
    Column("mean_cues", "cues per response", "{:.2f}"),
    Column("mostly_cues", "mostly cues", "{:.0%}"),
    Column("repeats", "repeat a pair of words", "{:.0%}"),
)
BROKEN_OFF = Column("broken_off", "broken off", "{:.0%}")
ANSWERS = (
    Column("answers", "responses", "{:,.0f}"),
    Column("distinct", "different", "{:,.0f}"),
    *CUES,
    Column("unfinished", "no final punctuation", "{:.0%}"),
    BROKEN_OFF,
)
# {key in the file: whose responses}
WHO = {"model": "this model", "people": "people"}

POINTS = (
    Column("guidance", "guidance", "{:g}"),
    Column("emotion_following", "follow the face", "{:.1%}"),
    Column("emotion_following_standard_error", "±", "{:.1%}"),
    Column("emotion_following_second", "by the second labeller", "{:.1%}"),
    Column("emotion_following_second_standard_error", "±", "{:.1%}"),
    Column("emotion_following_third", "by the third labeller", "{:.1%}"),
    Column("emotion_following_third_standard_error", "±", "{:.1%}"),
    Column("emotion_asked", "have the emotion asked for", "{:.1%}"),
    Column("emotion_asked_second", "by the second labeller", "{:.1%}"),
    Column("generated_perplexity", "perplexity of generated", "{:.1f}"),
    Column("response_perplexity", "perplexity of people's", "{:.1f}"),
    Column("dist_2", "Dist-2", "{:.3f}"),
    *CUES,
    BROKEN_OFF,
)
JUDGES = {
    "emotion_following": "word list",
    "emotion_following_second": "second labeller",
    "emotion_following_third": "third labeller",
}
COSTS = {
    "generated_perplexity": "perplexity of the generated responses, without guidance",
    "response_perplexity": "perplexity of people's responses, with guidance",
    "dist_2": "Dist-2 of the generated responses",
}


def answers(splits: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of `answers.json`, the leading split first.

    Returns:
      {title of the split: groups {"emotion", "rows" {"who", "cells", "words"}}}: `cells` are
      texts, one for each of `ANSWERS`; `words` are (word, share of responses).
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for title, of_split in reversed(by_split(splits).items()):
        tables[title] = []
        for emotion in (*EMOTIONS, "all"):
            rows = [
                _row(who, statistics)
                for key, who in WHO.items()
                if (statistics := (of_split.get(key) or {}).get(emotion))
            ]
            if rows:
                tables[title].append({"emotion": emotion, "rows": rows})
    return tables


def _row(who: str, statistics: Mapping[str, Any]) -> dict[str, Any]:
    frequent = statistics.get("frequent_words", [])
    words = [(word, formatted(share, "{:.0%}")) for word, share in frequent]
    return {"who": who, "cells": _cells(ANSWERS, statistics), "words": words}


def _cells(columns: tuple[Column, ...], values: Mapping[str, Any]) -> list[str]:
    return [formatted(values.get(column.name), column.format) or "–" for column in columns]


def guidance(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table and the panels of `guidance.json`, as `tools.guidance_sweep` measured them.

    Returns:
      {"columns", "rows" (cells as texts; the last row is people's), "panels" {"title", "chart"},
      "labels" of the series, "split", "windows", "following_windows", "held_out"}; None if it has
      no points.
    """
    points = [point for point in measured.get("points") or [] if finite(point.get("guidance"))]
    if not points:
        return None
    columns = tuple(c for c in POINTS if any(finite(point.get(c.name)) for point in points))
    people = _cells(columns, measured.get("people") or {})
    panels = []
    for cost, title in COSTS.items():
        series = {
            label: [
                (point[cost], point[judge], f"{point['guidance']:g}")
                for point in points
                if finite(point.get(cost)) and finite(point.get(judge))
            ]
            for judge, label in JUDGES.items()
        }
        panels.append({"title": title, "chart": charts.tradeoff(series)})
    return {
        "columns": [column.title for column in columns],
        "rows": [_cells(columns, point) for point in points] + [["people", *people[1:]]],
        "panels": panels,
        "labels": [label for j, label in JUDGES.items() if any(j in point for point in points)],
        **{name: measured.get(name, "") for name in ("split", "windows", "following_windows")},
        "held_out": held_out(measured.get("text_labeller")),
    }


def held_out(value: Any) -> dict[str, dict[str, Any]]:
    """How well the labellers besides the lexicon do on held-out texts.

    Args:
      value: summary.json's "text_labeller", of any version and in any state.

    Returns:
      {ordinal: {"kind", "lines": one for each split of a dataset}}
    """
    return {
        ordinal: {"kind": kind, "lines": lines}
        for ordinal, kinds in _mapping(value).items()
        for kind, datasets in _mapping(kinds).items()
        if (lines := [*_held_out_lines(datasets)])
    }


def _held_out_lines(datasets: Any) -> Iterator[str]:
    for dataset, splits in _mapping(datasets).items():
        for split, values in _mapping(splits).items():
            if finite(_mapping(values).get("accuracy")):
                yield (
                    f"{dataset}, {split}: accuracy {formatted(values['accuracy'], '{:.3f}')}, "
                    f"macro-F1 {formatted(values.get('macro_f1'), '{:.3f}')}, "
                    f"weighted F1 {formatted(values.get('weighted_f1'), '{:.3f}')} "
                    f"({formatted(values.get('examples'), '{:,}')} texts)"
                )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
