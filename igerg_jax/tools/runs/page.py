"""Renders the page of the runs in a folder."""

import os
import pathlib
import urllib.parse
from collections.abc import Sequence

from igerg_jax import metrics
from igerg_jax.report import gallery, templates
from igerg_jax.report.templates import finite
from igerg_jax.tools.compare import drawing
from igerg_jax.tools.compare.page import CURVES, series
from igerg_jax.tools.runs.status import Run

# Of the table: those of the last evaluation during training, and those of the end.
DURING, AT_END = ("response_perplexity", "image_emotion_accuracy"), ("emotion_following",)
SHOWN_RUNS = 12  # of the latest, whose curves and samples are drawn at first


def render(
    runs: Sequence[Run],
    title: str,
    curves: Sequence[str] = CURVES,
    folder: pathlib.Path | None = None,
    refresh_seconds: int = 0,
) -> str:
    """The page, as HTML, with links to the runs' reports.

    Args:
      runs: the latest first.
      curves: keys of metrics.jsonl; an objective's name stands for its loss.
      folder: the page's folder, which links are relative to; None = as the server names reports.
      refresh_seconds: how often the page asks its server for what is new; 0 = never.
    """
    # Numbers, and so colours, in order of the first start: a new run changes no other's.
    numbered = dict(enumerate(reversed(runs)))
    return templates.render(
        pathlib.Path(__file__).parent / "runs.html",
        title=title,
        runs=dict(reversed(numbered.items())),
        numbered=numbered,
        going_on=sum(run.goes_on for run in runs),
        shown={n for n in numbered if n >= len(numbered) - SHOWN_RUNS},
        panels=[(key, _panel(key, numbered)) for key in curves],
        columns=[metrics.by_name()[name] for name in (*DURING, *AT_END)],
        figure=figure,
        conversations=lambda run: gallery.over_time(run.progress),
        refresh_seconds=refresh_seconds,
        # The server writes one for whom it lacks.
        has_report=lambda run: refresh_seconds or (run.workdir / "report.html").exists(),
        address=lambda run: _address(run, folder),
    )


def figure(run: Run, name: str) -> tuple[float, str] | None:
    """(value, the split that it is of) of a metric: of the end, or else the last one measured."""
    for split, values in reversed(run.evaluation.items()):
        if split == "test" and finite(values.get(name)):
            return values[name], split
    value = run.last(f"valid/{name}")
    return None if value is None else (value, "valid")


def _address(run: Run, folder: pathlib.Path | None) -> str:
    name = run.name
    if folder is not None:
        name = os.path.relpath(run.workdir.resolve(), folder.resolve())
    return urllib.parse.quote(os.fsencode(f"{name}/report.html"))


def _panel(key: str, runs: dict[int, Run]) -> drawing.Plot | None:
    return drawing.overlay({number: series(run.records, key) for number, run in runs.items()})
