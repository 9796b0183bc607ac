"""samples.jsonl: held-out conversations, and what the model saw and generated in each.

progress.jsonl has a few of them at each evaluation during training, in short.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from igerg_jax import lexicon, storage
from igerg_jax.batch import EMOTIONS, UNKNOWN
from igerg_jax.data.images import data_url
from igerg_jax.data.windows import Split, Window

FILE, PROGRESS_FILE = "samples.jsonl", "progress.jsonl"  # in a workdir


def write(rows: Sequence[Mapping[str, Any]], workdir: epath.PathLike, file: str = FILE) -> None:
    """Writes a .jsonl file: all rows, or none if one cannot be serialised."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_text(epath.Path(workdir) / file, text)


def add_progress(step: int, rows: Sequence[Mapping[str, Any]], workdir: epath.Path) -> None:
    """Adds to progress.jsonl what `rows` of samples.jsonl are after a step.

    Lines of that step or later ones are from before the run resumed: they are dropped.
    """
    lines = storage.read_json_lines(workdir / PROGRESS_FILE).objects
    kept = [line for line in lines if storage.step_of(line) < step]
    write([*kept, *({"step": step} | _in_short(row) for row in rows)], workdir, PROGRESS_FILE)


def _in_short(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of samples.jsonl with the last of its turns and the image of its response alone."""
    turn, face = (row["context"] or [{}])[-1], row["response_image"] or {}
    short = {"turn": turn.get("text", ""), "face": face.get("image")}
    kept = "index reference reference_emotion generated spoken_emotion"
    return short | {name: row[name] for name in kept.split()}


def row(
    index: int,
    split: Split,
    probabilities: Mapping[str, np.ndarray],
    image_mask_N: np.ndarray,
    generated: str,
) -> dict[str, Any]:
    """One line of the file.

    Args:
      index: of the window in its split.
      probabilities: of this window, as `predictions.emotion_probabilities` names them.
      image_mask_N: which images the model was given.
      generated: the model's response.
    """
    window = split.window(index)
    seen, jpeg = seen_in(probabilities, image_mask_N), window.response_image
    slot, emotion = len(window.turn_texts), window.response_emotion
    face = _face(emotion, jpeg, seen[slot])
    return {
        "index": index,
        "context": context(window, seen),
        "response_image": None if jpeg is None else face,
        "reference": window.response_text,
        "reference_emotion": emotion_name(window.response_emotion),
        "generated": generated,
        "spoken_emotion": EMOTIONS[lexicon.label(generated)],
        "judge": by_emotion(probabilities["judge"]) if "judge" in probabilities else None,
    }


Seen = dict[str, float] | None  # {emotion: probability} in an image; None = not given, or not read


def seen_in(probabilities: Mapping[str, np.ndarray], image_mask_N: np.ndarray) -> list[Seen]:
    """What is seen in the image of each slot. The arguments are those of `row`."""
    if "images" not in probabilities:
        return [None] * len(image_mask_N)
    given = zip(probabilities["images"], image_mask_N, strict=True)
    return [by_emotion(p_C) if is_real else None for p_C, is_real in given]


def context(window: Window, seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """The turns before the response: words, images with their labels, and what is seen in them."""
    turns = zip(window.turn_texts, window.turn_emotions, window.turn_images, strict=True)
    return [
        {
            "text": text,
            **_face(emotion, jpeg, seen[slot]),
            "has_image": jpeg is not None,
        }
        for slot, (text, emotion, jpeg) in enumerate(turns)
    ]


def _face(emotion: int, jpeg: bytes | None, seen: Seen) -> dict[str, Any]:
    image = None if jpeg is None else data_url(jpeg, "jpeg")
    return {"emotion": emotion_name(emotion), "seen": seen, "image": image}


def by_emotion(p_C: np.ndarray) -> dict[str, float]:
    """{emotion: probability}, rounded to four decimal places."""
    return {name: round(float(p), 4) for name, p in zip(EMOTIONS, p_C, strict=True)}


def emotion_name(emotion: int) -> str | None:
    """None for UNKNOWN."""
    return None if emotion == UNKNOWN else EMOTIONS[emotion]
