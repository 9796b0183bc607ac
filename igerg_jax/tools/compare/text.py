"""A comparison as Markdown and as CSV."""

import csv
import io
import re

from igerg_jax.report.templates import duration, finite, formatted
from igerg_jax.tools.compare.table import COMPUTE, TESTED, Cell, Effect, Line, Table

ARROWS = {1: " ↑", -1: " ↓", 0: ""}


def cell(value: Cell | None, form: str) -> str:
    """Mean ± deviation, or only the mean for one seed, or "–" for None."""
    if value is None:
        return "–"
    mean = form.format(value.mean)
    return f"{mean} ± {form.format(value.deviation)}" if finite(value.deviation) else mean


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def effect(found: Effect, metric: str) -> str:
    """The difference from the baseline, its interval, if it has ends, and its corrected p-value."""
    form = TESTED[metric].format
    if not finite(found.high):
        return f"{form.format(found.estimate)}, {p_value(found.corrected)}"
    low, high = (form.format(end).removesuffix(" points") for end in (found.low, found.high))
    return f"{form.format(found.estimate)} [{low}, {high}], {p_value(found.corrected)}"


def markdown(table: Table) -> str:
    """A table of metrics and compute, and a table of tests if there are any."""
    titles = [f"{metric.title}{ARROWS[metric.better]}" for metric in table.metrics]
    head = ["config", "seeds", *titles, "wall time", "steps", "examples"]
    body = []
    for line in table.lines:
        cells = [cell(line.cells.get(m.name), m.format) for m in table.metrics]
        spent = [
            duration(line.compute.get("wall_seconds")),
            formatted(line.compute.get("steps"), "{:,.0f}"),
            formatted(line.compute.get("examples"), "{:,.0f}"),
        ]
        body.append([line.name, _seeds(line), *cells, *(text or "–" for text in spent)])
    parts = [_markdown_table(head, body)]
    tested = [m for m in table.metrics if any(m.name in line.effects for line in table.lines)]
    if tested:
        head = [f"against {table.baseline}", *(metric.title for metric in tested)]
        body = []
        for line in table.lines:
            effects = [line.effects.get(m.name) for m in tested]
            if any(effects):
                texts = [
                    effect(f, m.name) if f else "–" for f, m in zip(effects, tested, strict=True)
                ]
                body.append([line.name, *texts])
        parts.append(_markdown_table(head, body))
    parts += [f"{_in_markdown(note)}\n" for note in notes(table)]
    parts += [
        f"The {ordinal} labeller ({labeller['kind']}), held out: {'; '.join(labeller['lines'])}.\n"
        for ordinal, labeller in table.held_out.items()
    ]
    return "\n".join(parts)


def notes(table: Table) -> list[str]:
    """Sentences beneath the table: what its figures are to be held against, and of which commits
    the rows are, if there are several."""
    beside, baselines = [], table.baselines
    for metric in table.metrics:
        if metric.name in baselines:
            ends = dict.fromkeys(metric.format.format(end) for end in baselines[metric.name])
            beside.append(f"{metric.title}: {metric.baseline.title} {' to '.join(ends)}")
    sentences = [f"For comparison. {'; '.join(beside)}."] if beside else []
    if len(table.commits) > 1:
        of = ", ".join(f"{commit[:12]} ({count})" for commit, count in table.commits.items())
        sentences.append(f"The rows are from several commits, whose code may differ: {of}.")
    return sentences


def _seeds(line: Line) -> str:
    return f"{len(line.rows)} ({line.trouble})" if line.failed else str(len(line.rows))


def _markdown_table(head: list[str], body: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(map(_in_markdown, row)) + " |\n" for row in rows)


def _in_markdown(text: str) -> str:
    """Text escaped to be one cell without markup."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def comma_separated(table: Table) -> str:
    """A line for each config: numbers in full precision, empty if there are none."""
    columns: dict[str, list] = {"config": [], "seeds": [], "failed": []}
    columns |= {
        f"{metric.name}{part}": []
        for metric in table.metrics
        for part in ("", "_deviation", *(f"_{p}" for p in _EFFECT if metric.name in TESTED))
    }
    columns |= {field: [] for field in COMPUTE}
    for line in table.lines:
        values = {"config": line.name, "seeds": len(line.rows), "failed": len(line.failed)}
        for name, over_seeds in line.cells.items():
            values |= {name: over_seeds.mean, f"{name}_deviation": over_seeds.deviation}
        for name, against in line.effects.items():
            values |= {f"{name}_{part}": x for part, x in zip(_EFFECT, against, strict=True)}
        values |= line.compute
        for column, kept in columns.items():
            value = values.get(column)
            kept.append(value if isinstance(value, str) or finite(value) else "")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()


# Columns for the fields of an `Effect`.
_EFFECT = ("against_baseline", "low", "high", "p", "p_holm")
