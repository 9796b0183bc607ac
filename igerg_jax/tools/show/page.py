"""Renders what `igerg_jax.tools.show` collects, in the style of a run's report."""

from __future__ import annotations

import dataclasses
import html
import itertools
import pathlib
import string
from collections.abc import Sequence

from ml_collections import ConfigDict

from igerg_jax.batch import EMOTIONS, UNKNOWN
from igerg_jax.data.prepared import Prepared
from igerg_jax.objectives import OBJECTIVES
from igerg_jax.objectives.display import Line, Token
from igerg_jax.report.gallery import emotion_chip
from igerg_jax.report.page import style

_TEMPLATE = pathlib.Path(__file__).parent / "show.html"
_HUES = (212, 28, 145, 285, 50, 180, 330)  # of turns, from the oldest
_KINDS = {  # of tokens (`display.Token`), explained
    "mask": "hidden",
    "random": "replaced by a random token",
    "kept": "asked for, but left as it is",
    "special": "a special token",
}


@dataclasses.dataclass(frozen=True)
class Slot:
    """An image (its address in the page, "" = none, then `why` not), its label and turn."""

    image: str
    why: str
    emotion: int
    turn: int


@dataclasses.dataclass(frozen=True)
class Example:
    """A row of a batch; `response_slot` is -1 where the turn answers nothing."""

    dataset: str
    window: int
    position: int
    response_slot: int
    slots: list[Slot]
    sequence_emotion: int
    response_emotion: int
    objectives: dict[str, list[Line]]


@dataclasses.dataclass(frozen=True)
class Group:
    """The batch of one mixture ("" = the main one), and the objectives trained on it."""

    name: str
    objectives: list[str]
    examples: list[Example]


def render(groups: Sequence[Group], prepared: Prepared, config: ConfigDict, step: int) -> str:
    """The page, as HTML."""
    title = f"{config.name} · {config.preset}"
    shown = len(groups[0].examples)
    lead = (
        f"Training step {step:,}: {shown} of its {config.train.batch_size} examples, as the "
        "objectives receive them."
    )
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        style=style(),
        lead=lead,
        facts=_facts(prepared, config),
        legend=_legend(config),
        nav="".join(
            f'<li><a href="#group-{i}">{html.escape(_name(g))}</a></li>'
            for i, g in enumerate(groups)
        ),
        groups="".join(_group(i, group) for i, group in enumerate(groups)),
    )


def _name(group: Group) -> str:
    return f"Mixture {group.name}" if group.name else "Main batch"


def _facts(prepared: Prepared, config: ConfigDict) -> str:
    data = config.data
    image = f"{data.image_size} × {data.image_size} pixels"
    augment = ", ".join(f"{name} {value}" for name, value in data.augment.items())
    rows = {
        "Dataset": ", ".join(prepared.datasets),
        "Tokenizer": f"{data.tokenizer.kind}, {prepared.tokenizer.vocab_size:,} ids",
        "Context": f"{data.context_turns} turns, {data.context_tokens} tokens",
        "Response": f"{data.response_tokens} tokens",
        "Images": f"vectors of {data.feature_dim}" if data.feature_dim else image,
        "Augmentation": "none" if data.preprocessing != "augment" else augment,
        "Response's image": "given" if data.include_response_image else "withheld",
        "Seed": f"{config.seed}",
    }
    items = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in rows.items())
    return f'<dl class="facts">{items}</dl>'


def _legend(config: ConfigDict) -> str:
    turns = "".join(
        f"<li>{_run(turn, [Token('turn', turn, '')])}</li>"
        for turn in range(config.data.context_turns + 1)
    )
    kinds = "".join(
        f'<li><span class="run">{_token(Token("token", -1, kind))}</span> {words}</li>'
        for kind, words in _KINDS.items()
    )
    return f'<ul class="legend">{turns}{kinds}</ul>'


def _group(number: int, group: Group) -> str:
    names = ", ".join(group.objectives)
    cards = "".join(_example(example) for example in group.examples)
    return (
        f'<section class="part" id="group-{number}"><h2>{html.escape(_name(group))}</h2>'
        f"<p>For {html.escape(names)}.</p>{cards}</section>"
    )


def _example(example: Example) -> str:
    slots = "".join(_slot(i, slot, example) for i, slot in enumerate(example.slots))
    blocks = "".join(_objective(name, lines) for name, lines in example.objectives.items())
    return (
        '<article class="example"><header>'
        f"<b>{html.escape(example.dataset)}</b>"
        f"<span>window {example.window:,}</span><span>position {example.position:,}</span>"
        "</header>"
        f'<ol class="slots">{slots}</ol>'
        f"<p class='labels'><span>image sequence {_emotion(example.sequence_emotion)}</span>"
        f"<span>response {_emotion(example.response_emotion)}</span></p>"
        f'<div class="blocks">{blocks}</div></article>'
    )


def _slot(number: int, slot: Slot, example: Example) -> str:
    words = "answers" if number == example.response_slot else f"turn {number}"
    if slot.turn < 0:
        face = f'<span class="absent">{html.escape(slot.why)}</span>'
        caption = f"<small>slot {number}, masked</small>"
    else:
        face = f'<span class="absent">{html.escape(slot.why)}</span>'
        if slot.image:
            alt = f"image of turn {slot.turn}"
            face = f'<img src="{slot.image}" alt="{alt}" loading="lazy">'
        caption = f"<small>{words}</small>{_emotion(slot.emotion)}"
    hue = f' style="--h:{_hue(slot.turn)}"' if slot.turn >= 0 else ' class="masked"'
    return f"<li{hue}>{face}{caption}</li>"


def _objective(name: str, lines: Sequence[Line]) -> str:
    body = "".join(_line(line) for line in lines)
    return (
        f'<section class="block"><h4>{html.escape(name)}</h4>'
        f"<small>{html.escape(OBJECTIVES[name].summary)}</small>{body}</section>"
    )


def _line(line: Line) -> str:
    runs = itertools.groupby(line.tokens, key=lambda token: token.turn)
    tokens = "".join(_run(turn, list(run)) for turn, run in runs)
    if tokens:
        tokens = f'<p class="tokens">{tokens}</p>'
    elif not line.emotions:
        tokens = '<p class="tokens"><em class="quiet">nothing</em></p>'
    chips = "".join(
        f"<span>{_run(turn, []) if turn >= 0 else ''}{_emotion(emotion)}</span>"
        for turn, emotion in line.emotions
    )
    chips = f'<p class="asked">{chips}</p>' if chips else ""
    return f'<div class="line"><span>{html.escape(line.caption)}</span>{tokens}{chips}</div>'


def _run(turn: int, tokens: Sequence[Token]) -> str:
    """Consecutive tokens of one turn."""
    inside = "".join(map(_token, tokens))
    if turn < 0:
        return f'<span class="run">{inside}</span>'
    return f'<span class="run" style="--h:{_hue(turn)}"><sup>{turn}</sup>{inside}</span>'


def _token(token: Token) -> str:
    kind = f' class="{token.kind}" title="{_KINDS[token.kind]}"' if token.kind else ""
    piece = html.escape(token.piece).replace("▁", "<s>▁</s>")
    return f"<wbr><i{kind}>{piece}</i>"


def _hue(turn: int) -> int:
    return _HUES[turn % len(_HUES)]


def _emotion(emotion: int) -> str:
    return emotion_chip(None if emotion == UNKNOWN else EMOTIONS[emotion])
