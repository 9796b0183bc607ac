"""Renders a comparison as one page, in the style of a run's report."""

import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from igerg_jax import metrics, text_labeller
from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS
from igerg_jax.report import charts, templates
from igerg_jax.report.templates import finite
from igerg_jax.run.workdirs import METRICS_FILE
from igerg_jax.storage import read_json_lines
from igerg_jax.tools.compare import drawing, statistics, text
from igerg_jax.tools.compare.rows import Row
from igerg_jax.tools.compare.table import TESTED, Line, Table

X = "response_perplexity"  # of the scatter plots; there is one for each labeller
Y = ("emotion_following", *(f"emotion_following_{ordinal}" for ordinal in text_labeller.ORDINALS))
# Keys of metrics.jsonl; an objective's name stands for its loss.
CURVES = ("emotional_response", "image_emotion", f"valid/{X}", "valid/image_emotion_accuracy")


def render(table: Table, curves: Sequence[str], folder: pathlib.Path) -> str:
    """The page, as HTML.

    Args:
      curves: the learning curves to draw, as in `CURVES`.
      folder: the page's folder; links to the runs' reports are relative to it.
    """
    numbered = dict(enumerate(table.lines))
    logs = {n: [_metrics(row) for row in line.rows] for n, line in numbered.items()}
    followed = {n: share for n, line in numbered.items() if (share := following(line)) is not None}
    return templates.render(
        pathlib.Path(__file__).parent / "compare.html",
        title=f"{len(table.lines)} configs compared",
        table=table,
        lines=numbered,
        text=text,
        tested=TESTED,
        min_conversations=statistics.MIN_CLUSTERS,
        resamples=statistics.RESAMPLES,
        x_metric=metrics.by_name()[X],
        scatters=[(metrics.by_name()[key], plot) for key in Y if (plot := _scatter(key, numbered))],
        panels=[(key, _panel(key, logs)) for key in curves],
        followed=followed,
        reports={id(row): report(row, folder) for line in table.lines for row in line.rows},
        id=id,
    )


def _scatter(key: str, lines: dict[int, Line]) -> drawing.Plot | None:
    """The plot of a metric over `X`."""
    have = {n: line for n, line in lines.items() if X in line.cells and key in line.cells}
    cells = {n: (line.cells[X], line.cells[key]) for n, line in have.items()}
    return drawing.scatter(cells, {n: line.name for n, line in have.items()})


def following(line: Line) -> list[tuple[str, float, int, int]] | None:
    """(emotion, share of its faces that the words follow, their number, all of its faces), over the
    seeds; None if it was not measured."""
    matrices = [np.array(row.following_matrix) for row in line.rows if row.following_matrix]
    matrices = [matrix for matrix in matrices if matrix.shape == (NUM_EMOTIONS, NUM_EMOTIONS)]
    if not matrices:
        return None
    total = sum(matrices)
    hits_C, shown_C = np.diag(total).tolist(), total.sum(1).tolist()
    return [
        (name, hits / shown if shown else 0.0, hits, shown)
        for name, hits, shown in zip(EMOTIONS, hits_C, shown_C, strict=True)
    ]


def report(row: Row, folder: pathlib.Path) -> str:
    """The link from a page in `folder` to a run's report.html; "" if there is none."""
    path = pathlib.Path(row.workdir) / "report.html" if row.workdir else None
    if path is None or not path.exists():
        return ""
    relative = os.path.relpath(path.resolve(), folder.resolve())
    return urllib.parse.quote(os.fsencode(pathlib.Path(relative).as_posix()))


def _metrics(row: Row) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl; none without the run's folder."""
    path = pathlib.Path(row.workdir) / METRICS_FILE
    return read_json_lines(path).objects if row.workdir else []


def _panel(key: str, logs: dict[int, list[list[dict]]]) -> drawing.Plot | None:
    curves = {}
    for number, runs in logs.items():
        mean = drawing.mean_curve([series(records, key) for records in runs])
        if mean:
            curves[number] = mean
    return drawing.overlay(curves)


def series(records: list[dict], key: str) -> charts.Points:
    """(step, value) of a key of metrics.jsonl, or of an objective's loss."""
    values = {}
    for record in records:
        value = record.get(key, record.get(f"loss/{key}"))
        if finite(value) and finite(record.get("step")):
            values[record["step"]] = value
    return sorted(values.items())
