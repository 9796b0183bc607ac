"""The model card of a weights folder, made from what a run has left in its folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import igerg_jax
from igerg_jax import metrics
from igerg_jax.report import evaluation
from igerg_jax.report.templates import duration, finite

HEADER = """---
library_name: igerg_jax
tags: [jax, flax, image-grounded-dialogue, emotion]
---
"""
USE = """
    igerg chat --checkpoint={name}
    igerg generate --checkpoint={name} --context="hey how are you" --image=face.jpg

`{name}` stands for the folder that this file lies in; `igerg weights pull` makes one from a
repository, and `--config.init_from={name}` starts training from it.
"""
PARTS_USE = """
    igerg train --config=FILE:PRESET --config.init_from={name} --config.init_parts="{parts},"

`{name}` stands for the folder that this file lies in.
"""


def card(
    name: str,
    run: Mapping[str, Any],
    summary: Mapping[str, Any],
    parameters: int,
    parts: Sequence[str] = (),
) -> str:
    """The card, as Markdown.

    Args:
      name: of the model.
      run: run.json of the weights folder.
      summary: summary.json of the run; {} where it does not describe these weights.
      parameters: how many there are in the folder.
      parts: of the model that are in it; () = all.
    """
    config = run.get("config") or {}
    parts = [
        HEADER,
        f"# {name}\n",
        f"{_what(parameters, parts)}, trained with igerg_jax {igerg_jax.__version__}.",
        (PARTS_USE if parts else USE).format(name=name, parts=",".join(parts)),
        "## Training\n",
        *(f"- {line}" for line in _training(config, run, summary)),
        "\n## Figures\n",
        _figures(summary) or "These weights have not been evaluated.",
        "\n## Limits\n",
        _limits(config, summary),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _what(parameters: int, parts: Sequence[str]) -> str:
    size = f"{parameters / 1e6:.2f} M parameters"
    if parts:
        return f"Parts of a vision-language encoder-decoder ({', '.join(parts)}), {size}"
    return (
        f"A vision-language encoder-decoder of {size} that answers a conversation with the emotion "
        "of the face it is shown"
    )


def _training(config: Mapping[str, Any], run: Mapping[str, Any], summary: Mapping[str, Any]):
    """What is known about it, a line each."""
    data, train = config.get("data") or {}, config.get("train") or {}
    mixed = (data.get("mixtures") or {}).values()
    names = dict.fromkeys([data.get("dataset"), *(n for m in mixed for n in m.get("datasets", {}))])
    objectives = config.get("objectives") or {}
    kept = [name for name, settings in objectives.items() if settings.get("weight")]
    entries = (summary.get("history") or {}).get("entries") or [{}]
    versions = entries[-1].get("versions") or {}
    yield f"config `{config.get('name')}:{config.get('preset')}`, seed {run.get('seed')}"
    yield f"{run.get('step'):,} steps of {train.get('batch_size')} examples"
    yield f"data: {', '.join(f'`{name}`' for name in names if name)}"
    yield f"objectives: {', '.join(f'`{name}`' for name in kept)}"
    if wall := duration(summary.get("wall_seconds")):
        yield f"{wall} on {summary.get('devices')}"
    if commit := entries[-1].get("commit"):
        yield f"commit `{commit}`"
    if versions:
        yield "versions: " + ", ".join(f"{package} {of}" for package, of in versions.items())


def _figures(summary: Mapping[str, Any]) -> str:
    """A table of the metrics on every split, with their errors and what to compare them with."""
    splits = evaluation.by_split(summary.get("evaluation"))
    if not splits:
        return ""
    titles = list(reversed(splits))
    leading = splits[titles[0]]
    lines = [f"| | {' | '.join(titles)} | to compare with ({titles[0]}) |"]
    lines.append("|---" * (len(titles) + 2) + "|")
    for metric in metrics.rows():
        if not any(finite(splits[title].get(metric.name)) for title in titles):
            continue
        cells = [_cell(metric, splits[title]) for title in titles]
        other = leading.get(metric.baseline.name or f"reference_{metric.name}")
        beside = ""
        if finite(other):
            beside = f"{metric.baseline.title or 'people'} {metric.format.format(other)}"
        lines.append(f"| {metric.title} | {' | '.join(cells)} | {beside} |")
    return "\n".join(lines) + "\n\n± standard error, by bootstrap over conversations or faces."


def _cell(metric: metrics.Metric, values: Mapping[str, Any]) -> str:
    value, error = values.get(metric.name), values.get(metric.name + metrics.STANDARD_ERROR)
    if not finite(value):
        return "–"
    text = metric.format.format(value)
    return f"{text} ± {metric.format.format(error)}" if finite(error) else text


def _limits(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    size = (config.get("data") or {}).get("image_size")
    return (
        f"Images are read at {size} pixels, and the model knows faces like those that it was "
        f"trained on. {evaluation.word_list(summary.get('labels'))} Its words are those of its "
        "training data, which nobody filtered for this model."
    )
