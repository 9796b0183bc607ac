"""The report's gallery: conversations, what the model saw in each face, and what it said."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from igerg_jax.batch import EMOTIONS
from igerg_jax.report.templates import finite

_PROGRESS = ("turn", "reference", "reference_emotion", "generated", "spoken_emotion")


def gallery(samples: list[dict]) -> dict[str, Any]:
    """The samples of a `samples.jsonl` as cards, and how many are right.

    Returns:
      {"cards", "faces", "responses"}. The last two are lists of booleans: for each labelled face
      that the model was shown, whether it saw that emotion; for each labelled response, whether
      the generated one carries that emotion.
    """
    cards = [_card(sample) for sample in samples]
    faces = [f for card in cards for f in (*card["turns"], card["answer"]) if f]
    return {
        "cards": cards,
        "faces": [f["right"] for f in faces if f["right"] is not None],
        "responses": [card["right"] for card in cards if card["right"] is not None],
    }


def following(rows: list[dict]) -> list[dict[str, Any]]:
    """The windows of a `following.jsonl`: the same words, answered once for each of seven faces.

    Returns:
      {"number", "turns", "responses"}: of each response its face, as a turn's, its words, the
      emotion that the labeller finds in them, and whether that is the face's.
    """
    return [
        {
            "number": row.get("index", ""),
            "turns": [_face(turn) for turn in objects(row.get("context"))],
            "responses": [
                {
                    "face": _face(response),
                    "generated": _words(response.get("generated")),
                    "spoken": response.get("spoken_emotion"),
                    "right": response.get("spoken_emotion") == response.get("emotion"),
                }
                for response in objects(row.get("responses"))
            ],
        }
        for row in rows
    ]


def over_time(progress: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """Of each conversation in a `progress.jsonl`, its lines in order of step, the last one first.

    A line that several starts wrote counts once, as the last of them wrote it.
    """
    found: dict[Any, dict[Any, dict[str, Any]]] = collections.defaultdict(dict)
    for line in progress:
        step, index = line.get("step"), line.get("index")
        if finite(step) and finite(index):
            texts = {name: _text(line.get(name)) for name in _PROGRESS}
            found[index][step] = {"step": step, "index": index, **texts}
            found[index][step]["face"] = _inside(line.get("face"))
    return [[lines[step] for step in sorted(lines, reverse=True)] for lines in found.values()]


def _card(sample: Mapping[str, Any]) -> dict[str, Any]:
    """`right`: whether the response carries the emotion that was meant; None = not known."""
    meant, spoken = sample.get("reference_emotion"), sample.get("spoken_emotion")
    turns, answer = objects(sample.get("context")), _object(sample.get("response_image"))
    return {
        "number": sample.get("index", ""),
        "turns": [_face(turn) for turn in turns],
        "answer": _face(answer) if answer else None,
        "meant": meant,
        "spoken": spoken,
        "right": meant == spoken if meant and spoken else None,
        "reference": _words(sample.get("reference")),
        "generated": _words(sample.get("generated")),
        "judge": _top(_object(sample.get("judge"))),
    }


def _face(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn's image, its labelled emotion, and what the model saw in it.

    `guess` is the likeliest emotion and its probability, `right` whether it is the label; either is
    None if it is not known. `shares`: probabilities that are large enough to draw.
    """
    label, seen = turn.get("emotion"), _object(turn.get("seen"))
    guess = _top(seen)
    shares = {name: seen[name] for name in EMOTIONS if finite(seen.get(name))}
    return {
        "text": _words(turn.get("text")),
        "image": _inside(turn.get("image")),
        "label": label,
        "guess": guess,
        "right": label == guess[0] if label and guess else None,
        "shares": {name: share for name, share in shares.items() if share >= 0.005},
    }


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list read from JSON; none in anything else."""
    return [inner for inner in value if isinstance(inner, dict)] if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _text(value: Any) -> str:
    return _words(value) or ""


def _inside(image: Any) -> str:
    """An image that is inside the file: a report must not fetch anything."""
    return image if isinstance(image, str) and image.startswith("data:image/") else ""


def _top(probabilities: Mapping[str, Any]) -> tuple[str, float] | None:
    """The most probable emotion and its probability; None where nothing was predicted."""
    known = [(k, v) for k, v in probabilities.items() if finite(v)]
    return max(known, key=lambda item: item[1], default=None)
