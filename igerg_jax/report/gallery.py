"""The report's gallery: held-out conversations, what the model saw in each face, what it said."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping

from igerg_jax.batch import EMOTIONS

TICK, CROSS = "✓", "✗"


def gallery(samples: list[dict]) -> str:
    """The samples of a `samples.jsonl` as cards, with a summary and a filter above them."""
    if not samples:
        return (
            '<p class="missing">This run has no samples.jsonl yet: conversations appear here once '
            "it has generated responses.</p>"
        )
    cards = "".join(_card(sample) for sample in samples)
    return (
        f"<p>{_tally(samples)}</p>{_colours()}{_FILTER}"
        f'<div class="cards">{cards}</div>'
        '<p class="missing none-left">No conversation here is of this kind.</p>'
    )


# Radio buttons that the style sheet reads (`:has`), so that filtering needs no script.
_FILTER = """<fieldset class="filter"><legend class="hidden">Which conversations to show</legend>
<input type="radio" name="show" id="show-all" checked><label for="show-all">All</label>
<input type="radio" name="show" id="show-right"><label for="show-right">Said what was meant</label>
<input type="radio" name="show" id="show-wrong"><label for="show-wrong">Said something else</label>
</fieldset>"""


def top(probabilities: Mapping[str, float] | None) -> tuple[str, float] | None:
    """The most probable emotion and its probability; None where nothing was predicted."""
    finite = {k: v for k, v in (probabilities or {}).items() if v is not None and math.isfinite(v)}
    if not finite:
        return None
    name = max(finite, key=lambda k: finite[k])
    return name, finite[name]


def _faces(samples: list[dict]) -> Iterable[dict]:
    for sample in samples:
        yield from sample.get("context") or []
        yield sample.get("response_image") or {}


def _tally(samples: list[dict]) -> str:
    seen = [(f["emotion"], top(f.get("seen"))) for f in _faces(samples) if f.get("emotion")]
    seen = [label == guess[0] for label, guess in seen if guess]
    right = [s["spoken_emotion"] == s["reference_emotion"] for s in samples if _judged(s)]
    parts = [f"{len(samples)} conversations that training never saw."]
    if seen:
        parts.append(
            f"The model names the emotion right for {sum(seen)} of {len(seen)} labelled faces."
        )
    if right:
        parts.append(
            f"{sum(right)} of {len(right)} generated responses carry the emotion that was meant, "
            "by a labeller that took no part in training."
        )
    parts.append("Under a face: the emotion seen, its probability, and all seven as a bar.")
    return " ".join(parts)


def _colours() -> str:
    return f'<ul class="emotions">{"".join(f"<li>{emotion_chip(n)}</li>" for n in EMOTIONS)}</ul>'


def _judged(sample: dict) -> bool:
    return bool(sample.get("reference_emotion") and sample.get("spoken_emotion"))


def _card(sample: dict) -> str:
    meant, spoken = sample.get("reference_emotion"), sample.get("spoken_emotion")
    kind = ("right" if meant == spoken else "wrong") if _judged(sample) else "unjudged"
    turns = sample.get("context") or []
    # Speakers alternate, and the one who answers is always on the right.
    bubbles = "".join(
        _turn(turn, "right" if (len(turns) - i) % 2 == 0 else "left")
        for i, turn in enumerate(turns)
    )
    number = html.escape(str(sample.get("index", "")))
    return (
        f'<article class="card {kind}" aria-label="Conversation {number}">'
        f'<header><span class="number">#{number}</span>{_path(sample)}</header>'
        f'<ol class="turns">{bubbles}</ol>{_answer(sample)}</article>'
    )


def _path(sample: dict) -> str:
    """Saw -> meant -> said: the emotion's way from the response's face into its words."""
    seen = top((sample.get("response_image") or {}).get("seen"))
    meant, spoken = sample.get("reference_emotion"), sample.get("spoken_emotion")
    steps = [("saw", seen[0] if seen else None), ("meant", meant), ("said", spoken)]
    shown = "".join(
        f"<span class='step'><small>{word}</small>{emotion_chip(name)}</span>"
        for word, name in steps
        if name or word != "saw"
    )
    verdict = _verdict(spoken == meant, "said what was meant") if _judged(sample) else ""
    return f'<span class="path">{shown}</span>{verdict}'


def _answer(sample: dict) -> str:
    image = sample.get("response_image")
    face = _face(image) if image else ""
    judge = top(sample.get("judge"))
    spoken = emotion_chip(sample.get("spoken_emotion"), "labeller: ")
    if judge:
        spoken += f'<span class="chip quiet">judge: {html.escape(judge[0])} {judge[1]:.0%}</span>'
    return (
        f'<div class="answer">{face}<div class="pair">'
        '<section class="reference"><h4>The person answered</h4>'
        f"<p>{_text(sample.get('reference'))}</p>"
        f"<div class='chips'>{emotion_chip(sample.get('reference_emotion'))}</div></section>"
        '<section class="generated"><h4>The model answers</h4>'
        f"<p>{_text(sample.get('generated'))}</p>"
        f"<div class='chips'>{spoken}</div></section></div></div>"
    )


def _turn(turn: dict, side: str) -> str:
    return (
        f'<li class="turn {side}">{_face(turn)}<p class="bubble">{_text(turn.get("text"))}</p></li>'
    )


def _face(turn: dict) -> str:
    """The image, its labelled emotion, what the model saw, and all seven probabilities."""
    label, guess = turn.get("emotion"), top(turn.get("seen"))
    source = turn.get("image") or ""
    # Only what is inside the file: a report must not fetch anything.
    if source.startswith("data:image/"):
        alt = f"face labelled {label}" if label else "face without a label"
        picture = f'<img src="{html.escape(source)}" alt="{html.escape(alt)}" loading="lazy">'
    else:
        picture = '<span class="no-image" role="img" aria-label="no image">no image</span>'
    caption = ""
    if guess:
        mark = _verdict(guess[0] == label, "seen as labelled") if label else ""
        caption = f"<b>{html.escape(guess[0])}</b> {guess[1]:.0%} {mark}{_bar(turn['seen'])}"
    if label and not (guess and guess[0] == label):
        caption += f"<small>label: {html.escape(label)}</small>"
    return f'<figure class="face">{picture}<figcaption>{caption}</figcaption></figure>'


def _bar(seen: Mapping[str, float]) -> str:
    shares = [(name, max(0.0, float(seen.get(name) or 0.0))) for name in EMOTIONS]
    spoken = ", ".join(f"{n} {v:.0%}" for n, v in sorted(shares, key=lambda s: -s[1]) if v >= 0.005)
    parts = "".join(
        f'<i style="flex:{v:.3f};background:var(--{n})"></i>' for n, v in shares if v >= 0.005
    )
    return f'<span class="bar" role="img" aria-label="{spoken}" title="{spoken}">{parts}</span>'


def emotion_chip(name: str | None, prefix: str = "") -> str:
    """An emotion's name beside a dot of its colour."""
    if not name:
        return f'<span class="chip quiet">{html.escape(prefix)}no label</span>'
    colour = f"var(--{name})" if name in EMOTIONS else "var(--muted)"
    text = html.escape(prefix + name)
    return f'<span class="chip"><i style="background:{colour}"></i>{text}</span>'


def _verdict(right: bool, what: str) -> str:
    kind, sign, spoken = ("yes", TICK, what) if right else ("no", CROSS, f"not {what}")
    return f'<span class="{kind}" role="img" aria-label="{spoken}" title="{spoken}">{sign}</span>'


def _text(text: str | None) -> str:
    return html.escape(text) if text and text.strip() else '<em class="quiet">(nothing)</em>'
