"""Reads what a run has left in its folder and writes it as one page."""

from __future__ import annotations

import html
import json
import math
import string
from collections.abc import Mapping
from typing import Any

from etils import epath

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.report import charts
from igerg_jax.report.evaluation import METRICS, confusions, headline, metric_table
from igerg_jax.report.gallery import gallery
from igerg_jax.report.text import duration, finite, formatted, is_number, missing

_TEMPLATE = epath.Path(__file__).parent / "page.html"

TOTAL = "the weighted sum that is minimised"
CURVES = ("image_emotion_accuracy", "sequence_emotion_accuracy", "response_perplexity")
MECHANICS = {
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "examples_per_second": "examples a second",
    "mfu": "share of the devices' peak that the model's FLOPs make up",
    "input_wait_fraction": "share of time spent waiting for data",
}


_LEGEND = """<ul class="legend">
<li><svg class="chart" viewBox="0 0 26 8" aria-hidden="true"><path class="line" d="M0,4H26"/></svg>
smoothed</li>
<li><svg class="chart" viewBox="0 0 26 8" aria-hidden="true"><path class="raw" d="M0,4H26"/></svg>
as logged</li>
<li><svg class="chart" viewBox="0 0 26 8" aria-hidden="true"><path class="mark" d="M0,4H26"/></svg>
where the run was resumed</li></ul>"""


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
    name = summary.get("name") or config.get("name") or workdir.name
    preset = summary.get("preset") or config.get("preset") or ""
    page = string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_escape(f"{name} · {preset}" if preset else name),
        lead=_lead(summary),
        headline=headline(summary),
        summary=_summary(summary, records),
        losses=_losses(records, summary),
        metrics=metric_table(summary) + _curves(records),
        confusion=confusions(summary),
        gallery=gallery(samples),
        config=_config(config),
        notes=_notes(torn + torn_samples),
    )
    storage.write_text(workdir / "report.html", page)
    return workdir / "report.html"


def style() -> str:
    """The report's style sheet, for pages in the same style."""
    return _TEMPLATE.read_text(encoding="utf-8").partition("<style>")[2].partition("</style>")[0]


def _read_json(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path}' is not JSON ({error}); delete it or run again") from error


def _read_lines(path: epath.Path) -> tuple[list[dict], int]:
    """The objects of a .jsonl file, and how many lines a killed run left half-written."""
    objects, torn = [], 0
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                value = json.loads(line) if line.strip() else None
            except ValueError:
                value = None
            if isinstance(value, dict):
                objects.append(value)
            elif line.strip():
                torn += 1
    return objects, torn


def _series(records: list[dict], key: str) -> list[tuple[float, float]]:
    """(step, value) in order of step. A resumed run logs some steps again: the last one counts."""
    values = {r["step"]: r[key] for r in records if is_number(r.get(key)) and "step" in r}
    return sorted(values.items())


def _escape(text: Any) -> str:
    return html.escape(str(text))


def _lead(summary: Mapping[str, Any]) -> str:
    if not finite(summary.get("final_step")):
        return "This run has written no summary yet: it was interrupted, or is still going."
    text = f"{summary['final_step']:,} training steps"
    if finite(summary.get("wall_seconds")):
        text += f" in {duration(summary['wall_seconds'])}"
    if summary.get("devices"):
        text += f" on {_escape(summary['devices'])}"
    return text + "."


def _summary(summary: Mapping[str, Any], records: list[dict]) -> str:
    resumed, waits = summary.get("resumed_from"), _series(records, "input_wait_fraction")
    waits = [w for _, w in waits if math.isfinite(w)]
    seconds, steps = summary.get("wall_seconds"), formatted(summary, "final_step", "{:,}")
    rows = [
        ("Steps", steps + formatted(summary, "steps", " of {:,}")),
        ("Resumed from", f"step {resumed:,}" if finite(resumed) else "not resumed"),
        ("Wall time", duration(seconds) if finite(seconds) else ""),
        ("First step after", formatted(summary, "seconds_to_first_step", "{:.1f} s")),
        ("Examples a second", formatted(summary, "examples_per_second", "{:,.1f}")),
        ("MFU", formatted(summary, "mfu", "{:.1%}")),
        ("Waiting for data", f"{sum(waits) / len(waits):.1%} of the time" if waits else ""),
        ("Devices", _escape(summary.get("devices") or "")),
        ("Skipped steps", formatted(summary, "skipped_steps", "{:,}")),
    ]  # fmt: skip
    if not summary:
        return missing("This run has no summary.json yet: it is written at the end.")
    items = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in rows if v)
    return f'<dl class="facts">{items}</dl>{_parameters(summary)}'


def _parameters(summary: Mapping[str, Any]) -> str:
    counts = {k: v for k, v in (summary.get("parameters") or {}).items() if finite(v)}
    total = counts.pop("total", sum(counts.values()))
    if not total:
        return ""
    # The parts need not add up to the total: heads and projections belong to none of them.
    rest = total - sum(counts.values())
    parts = [*counts.items(), *([("other", rest)] if rest > 0 else [])]
    bar = "".join(
        f'<i class="p{i}" style="flex:{v / total:.4f}"></i>' for i, (_, v) in enumerate(parts)
    )
    words = "".join(
        f'<li><i class="p{i}"></i>{_escape(k)} <b>{charts.short(v)}</b></li>'
        for i, (k, v) in enumerate(parts)
    )
    return (
        f'<div class="parameters"><p><b>{total:,}</b> parameters</p>'
        f'<span class="stack" aria-hidden="true">{bar}</span><ul>{words}</ul></div>'
    )


def _losses(records: list[dict], summary: Mapping[str, Any]) -> str:
    keys = {k.removeprefix("loss/") for r in records for k in r if k.startswith("loss/")}
    if not keys:
        return missing("This run has no metrics.jsonl with losses yet.")
    texts = {"total": TOTAL}
    for name, facts in (summary.get("objectives") or {}).items():
        texts[name] = facts.get("summary", "")
    order = [k for k in texts if k in keys] + sorted(keys - texts.keys())
    panels = "".join(
        _panel(records, f"loss/{key}", key, texts.get(key, ""), summary) for key in order
    )
    mechanics = "".join(
        _panel(records, key, key, text, summary) for key, text in MECHANICS.items()
        if _series(records, key)
    )  # fmt: skip
    if mechanics:
        mechanics = (
            "<details><summary>Learning rate, gradient norm and speed</summary>"
            f'<div class="panels">{mechanics}</div></details>'
        )
    return f'{_LEGEND}<div class="panels">{panels}</div>{mechanics}'


def _panel(records: list[dict], key: str, title: str, text: str, summary: Mapping[str, Any]) -> str:
    points = _series(records, key)
    span = max(3.0, len(points) / 40) if key.startswith("loss/") or key == "grad_norm" else 0
    averaged = charts.smooth(points, span) if span else []
    change = ""
    if len(averaged) > 1:
        first, last = f"{averaged[0][1]:.3g}", f"{averaged[-1][1]:.3g}"
        change = f'<span class="change">{first} → <b>{last}</b></span>'
    resumed = summary.get("resumed_from")
    chart = charts.line_chart(
        points, f"{title}, {text}", span, resumed if finite(resumed) else None
    )
    return (
        f'<figure class="panel"><figcaption><b>{_escape(title)}</b>{change}'
        f"<small>{_escape(text)}</small></figcaption>{chart}</figure>"
    )


def _curves(records: list[dict]) -> str:
    panels = ""
    for name in CURVES:
        points = _series(records, f"valid/{name}")
        if len(points) > 1:
            title = METRICS[name].title
            chart = charts.line_chart(points, f"{title} on validation", from_zero=True)
            caption = f"<figcaption><b>{title}</b><small>validation, by step</small>"
            panels += f'<figure class="panel">{caption}</figcaption>{chart}</figure>'
    return f'<h3>During training</h3><div class="panels">{panels}</div>' if panels else ""


def _config(config: Mapping[str, Any]) -> str:
    if not config:
        return missing("This run has no config.json.")
    text = _escape(json.dumps(config, indent=2, ensure_ascii=False))
    return f"<details><summary>config.json</summary><pre>{text}</pre></details>"


def _notes(torn: int) -> str:
    lines = f"{torn} half-written line{'s' if torn > 1 else ''} of the logs left out. "
    return lines if torn else ""
