"""Writes the report of a run from the files in its folder."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from igerg_jax import metrics, storage
from igerg_jax.errors import UserError
from igerg_jax.report import answers, charts, evaluation, templates
from igerg_jax.report.gallery import following, gallery, over_time
from igerg_jax.report.templates import finite, is_number

# The groups of summary.json, and how many levels each has.
_DEPTHS = {"evaluation": 2, "objectives": 2, "parameters": 1}
_TEMPLATE = pathlib.Path(__file__).parent / "report.html"

TOTAL = "the weighted sum that is minimised"
_NAMES = {"valid": "validation"}  # of splits
MECHANICS = {
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "examples_per_second": "examples per second",
    "mfu": "share of the devices' peak that the model's FLOPs make up",
    "input_wait_fraction": "share of time spent waiting for data",
}


def write_report(workdir: epath.PathLike) -> epath.Path:
    """Writes `report.html` of a run's folder: `render`. Returns its path."""
    path = epath.Path(workdir) / "report.html"
    storage.write_text(path, render(workdir))
    return path


def render(workdir: epath.PathLike) -> str:
    """The report, as HTML, from what a run has left in its folder so far.

    Reads config.json, metrics.jsonl, samples.jsonl, progress.jsonl, following.jsonl, answers.json,
    guidance.json and summary.json, whose "objectives" is {name: {"summary": one line, "first_loss",
    "last_loss"}}. Where one is missing, the report says so, or leaves its section out.

    Raises:
      UserError: `workdir` is not a folder, or one of the .json files is not JSON.
    """
    workdir = epath.Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"there is no folder '{workdir}' to report on; give a run's --workdir")
    config = storage.read_json_object(workdir / "config.json")
    summary = _read_summary(workdir)
    names = ("metrics.jsonl", "samples.jsonl", "following.jsonl", "progress.jsonl")
    files = [storage.read_json_lines(workdir / name) for name in names]
    records, samples, followed, progress = (file.objects for file in files)
    name, preset = (summary.get(k) or config.get(k) for k in ("name", "preset"))
    resumed = summary["resumed_from"] if finite(summary.get("resumed_from")) else None
    splits = evaluation.by_split(summary.get("evaluation"))
    sizes = evaluation.sizes(summary.get("sizes"))
    return templates.render(
        _TEMPLATE,
        title=" · ".join(str(part) for part in (name or workdir.name, preset) if part),
        summary=summary,
        resumed=resumed,
        waiting=_mean(value for _, value in _series(records, "input_wait_fraction")),
        history=_history(summary.get("history")),
        parameters=_parameters(summary.get("parameters") or {}),
        losses=_losses(records, summary.get("objectives") or {}, resumed),
        mechanics=_mechanics(records, resumed),
        curves=_curves(records),
        figures=evaluation.headline(splits, sizes),
        splits=list(splits),
        metric_groups=evaluation.metric_groups(splits),
        sizes=sizes,
        cuts=evaluation.cuts(summary.get("cut")),
        confusions=evaluation.confusions(summary.get("confusion_matrix")),
        word_list=evaluation.word_list(summary.get("labels")),
        response_matrices=evaluation.confusions(summary.get("response_matrix")),
        following=following(followed),
        following_matrices=evaluation.confusions(summary.get("following_matrix")),
        answers=answers.answers(storage.read_json_object(workdir / "answers.json")),
        answer_columns=answers.ANSWERS,
        guidance=answers.guidance(storage.read_json_object(workdir / "guidance.json")),
        held_out=answers.held_out(summary.get("text_labeller")),
        gallery=gallery(samples),
        progress=over_time(progress),
        config=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
        torn=sum(file.bad_lines for file in files),
    )


def _series(records: list[dict], key: str) -> list[tuple[float, float]]:
    """(step, value) in order of step. A resumed run logs some steps again: the last one counts."""
    both = (r for r in records if is_number(r.get(key)) and is_number(r.get("step")))
    values = {r["step"]: r[key] for r in both}
    return sorted(values.items())


def _mean(values: Iterable[float]) -> float | None:
    values = [value for value in values if math.isfinite(value)]
    return sum(values) / len(values) if values else None


def _history(history: Any) -> dict[str, Any]:
    """The totals and the entries of `igerg_jax.run.history`, for a run that has them."""
    history = history if isinstance(history, dict) else {}
    entries = history.get("entries")
    entries = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    versions = entries[-1].get("versions") if entries else None
    versions = versions if isinstance(versions, dict) else {}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {**history, "entries": entries, "versions": listed}


def _read_summary(workdir: epath.Path) -> dict[str, Any]:
    """summary.json, its groups without entries that are not dicts as deep as `_DEPTHS` says."""
    summary = storage.read_json_object(workdir / "summary.json")
    known = _DEPTHS.keys() & summary.keys()
    return summary | {name: _groups(summary[name], _DEPTHS[name]) for name in known}


def _groups(value: Any, depth: int) -> dict[str, Any]:
    """`value` as `depth` levels of nested dicts; what is not a dict at its level is left out."""
    value = value if isinstance(value, dict) else {}
    if depth == 1:
        return value
    return {name: _groups(inner, depth - 1) for name, inner in value.items() if _groups(inner, 1)}


def _parameters(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The total and (part, count) of each part of the model."""
    counts = {part: count for part, count in counts.items() if finite(count)}
    total = counts.pop("total", sum(counts.values()))
    # The parts need not add up to the total: heads and projections belong to none of them.
    rest = total - sum(counts.values())
    return {"total": total, "parts": [*counts.items(), *([("other", rest)] if rest > 0 else [])]}


def _losses(records: list[dict], objectives: Mapping[str, Any], mark: float | None) -> list[dict]:
    """A panel for the total, then one for each objective, followed by the parts of its loss."""
    keys = {key.removeprefix("loss/") for r in records for key in r if key.startswith("loss/")}
    texts = {"total": TOTAL} | {k: facts.get("summary", "") for k, facts in objectives.items()}
    rank = {name: place for place, name in enumerate(texts)}
    panels = []
    for key in sorted(keys, key=lambda key: (rank.get(key.partition("/")[0], len(rank)), key)):
        objective, _, part = key.partition("/")
        text = f"part of {objective}" if part else texts.get(key, "")
        panels.append(_panel(key, text, _series(records, f"loss/{key}"), smoothed=True, mark=mark))
    return panels


def _mechanics(records: list[dict], mark: float | None) -> list[dict]:
    return [
        _panel(key, text, points, smoothed=key == "grad_norm", mark=mark)
        for key, text in MECHANICS.items()
        if (points := _series(records, key))
    ]


def _curves(records: list[dict]) -> list[dict]:
    """Panels of the metrics that were evaluated more than once, for every such split."""
    shown = [metric for metric in metrics.rows() if metric.curve]
    names = tuple(metric.name for metric in shown)
    splits = sorted({key.partition("/")[0] for r in records for key in r if key.endswith(names)})
    return [
        _panel(metric.title, f"{_NAMES.get(split, split)}, by step", points, from_zero=True)
        for metric in shown
        for split in splits
        if len(points := _series(records, f"{split}/{metric.name}")) > 1
    ]


def _panel(
    title: str, text: str, points: charts.Points, smoothed: bool = False, **options: Any
) -> dict[str, Any]:
    """A chart and its captions; "change" is (first, last value) of a smoothed line, else None.

    "log" is the same chart with a logarithmic y axis, None unless all values are positive.
    """
    span = max(3.0, len(points) / 40) if smoothed else 0
    chart = charts.line_chart(points, span, **options)
    log = charts.line_chart(points, span, **options, log=True)
    change = None
    if smoothed and chart and len(chart.values) > 1:
        change = chart.values[0][1], chart.values[-1][1]
    return {"title": title, "text": text, "chart": chart, "log": log, "change": change}
