"""Reads what a run has left in its folder and writes it as one page."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.report import charts, evaluation, templates
from igerg_jax.report.gallery import gallery
from igerg_jax.report.templates import finite, is_number

_TEMPLATE = pathlib.Path(__file__).parent / "report.html"

TOTAL = "the weighted sum that is minimised"
CURVES = ("image_emotion_accuracy", "sequence_emotion_accuracy", "response_perplexity")
MECHANICS = {
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "examples_per_second": "examples a second",
    "mfu": "share of the devices' peak that the model's FLOPs make up",
    "input_wait_fraction": "share of time spent waiting for data",
}


def write_report(workdir: epath.PathLike) -> epath.Path:
    """Writes `report.html` from what a run has left in its folder so far.

    Reads config.json, metrics.jsonl, samples.jsonl and summary.json, whose "objectives" is
    {name: {"summary": one line, "first_loss", "last_loss"}}. Where one is missing, the report
    says so.

    Returns:
      The path of the report.

    Raises:
      UserError: `workdir` is no folder, or config.json or summary.json is not JSON.
    """
    workdir = epath.Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"there is no folder '{workdir}' to report on; give a run's --workdir")
    config, summary = _read_json(workdir / "config.json"), _read_json(workdir / "summary.json")
    records, torn = _read_lines(workdir / "metrics.jsonl")
    samples, torn_samples = _read_lines(workdir / "samples.jsonl")
    name, preset = (summary.get(k) or config.get(k) for k in ("name", "preset"))
    resumed = summary.get("resumed_from")
    splits = evaluation.by_split(summary.get("evaluation"))
    page = templates.render(
        _TEMPLATE,
        title=" · ".join(str(part) for part in (name or workdir.name, preset) if part),
        summary=summary,
        resumed=resumed if finite(resumed) else None,
        waiting=_mean(value for _, value in _series(records, "input_wait_fraction")),
        parameters=_parameters(summary.get("parameters") or {}),
        losses=_losses(records, summary.get("objectives") or {}, resumed),
        mechanics=_panels(records, MECHANICS, resumed, smoothed={"grad_norm"}),
        curves=_curves(records),
        figures=evaluation.headline(splits),
        splits=list(splits),
        metric_groups=evaluation.metric_groups(splits),
        confusions=evaluation.confusions(summary.get("confusion_matrix")),
        gallery=gallery(samples),
        config=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
        torn=torn + torn_samples,
    )
    storage.write_text(workdir / "report.html", page)
    return workdir / "report.html"


def _read_json(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path}' is not JSON ({error}); delete it or run again") from error


def _read_lines(path: epath.Path) -> tuple[list[dict], int]:
    """The objects of a .jsonl file, and how many lines a killed run left half-written."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines, objects = [line for line in lines if line.strip()], []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            objects.append(value)
    return objects, len(lines) - len(objects)


def _series(records: list[dict], key: str) -> list[tuple[float, float]]:
    """(step, value) in order of step. A resumed run logs some steps again: the last one counts."""
    values = {r["step"]: r[key] for r in records if is_number(r.get(key)) and "step" in r}
    return sorted(values.items())


def _mean(values: Iterable[float]) -> float | None:
    values = [value for value in values if math.isfinite(value)]
    return sum(values) / len(values) if values else None


def _parameters(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The total and (part, count) of each part of the model."""
    counts = {part: count for part, count in counts.items() if finite(count)}
    total = counts.pop("total", sum(counts.values()))
    # The parts need not add up to the total: heads and projections belong to none of them.
    rest = total - sum(counts.values())
    return {"total": total, "parts": [*counts.items(), *([("other", rest)] if rest > 0 else [])]}


def _losses(records: list[dict], objectives: Mapping[str, Any], resumed: Any) -> list[dict]:
    """A panel for the total, then one for each objective, followed by the parts of its loss."""
    keys = {key.removeprefix("loss/") for r in records for key in r if key.startswith("loss/")}
    texts = {"total": TOTAL} | {k: facts.get("summary", "") for k, facts in objectives.items()}
    rank = {name: place for place, name in enumerate(texts)}
    described = {}
    for key in sorted(keys, key=lambda key: (rank.get(key.partition("/")[0], len(rank)), key)):
        objective, _, part = key.partition("/")
        described[f"loss/{key}"] = f"part of {objective}" if part else texts.get(key, "")
    return _panels(records, described, resumed, smoothed=described.keys())


def _panels(
    records: list[dict], described: Mapping[str, str], resumed: Any, smoothed: Iterable[str]
) -> list[dict]:
    """Charts of what was logged: {"title", "text", "chart", "change"} for each key with values.

    `change`: where a smoothed line starts and ends; None where it has no two points.
    """
    panels = []
    for key, text in described.items():
        if not (points := _series(records, key)):
            continue
        span = max(3.0, len(points) / 40) if key in smoothed else 0
        averaged = charts.smooth(points, span) if span else []
        panels.append(
            {
                "title": key.removeprefix("loss/"),
                "text": text,
                "chart": charts.line_chart(points, span, resumed if finite(resumed) else None),
                "change": (averaged[0][1], averaged[-1][1]) if len(averaged) > 1 else None,
            }
        )
    return panels


def _curves(records: list[dict]) -> list[dict]:
    """Panels of the validation metrics that were measured more than once."""
    series = {name: _series(records, f"valid/{name}") for name in CURVES}
    return [
        {
            "title": evaluation.METRICS[name].title,
            "text": "validation, by step",
            "chart": charts.line_chart(points, from_zero=True),
            "change": None,
        }
        for name, points in series.items()
        if len(points) > 1
    ]
