"""samples.jsonl: held-out conversations, and what the model saw and generated in each."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from igerg_jax import lexicon, storage
from igerg_jax.batch import EMOTIONS, UNKNOWN
from igerg_jax.data.windows import Split

FILE = "samples.jsonl"  # in a workdir


def write(rows: Sequence[Mapping[str, Any]], workdir: epath.PathLike) -> None:
    """Writes `FILE`: all rows, or none where one is not JSON."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_text(epath.Path(workdir) / FILE, text)


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
    emotions = (*window.turn_emotions, window.response_emotion)
    images = (*window.turn_images, window.response_image)

    def face(slot: int) -> dict[str, Any]:
        seen = by_emotion(probabilities["images"][slot]) if image_mask_N[slot] else None
        return {
            "emotion": _emotion_name(emotions[slot]),
            "seen": seen,
            "image": _data_url(images[slot]),
        }

    last = len(window.turn_texts)
    return {
        "index": index,
        "context": [
            {"text": text, **face(slot), "has_image": images[slot] is not None}
            for slot, text in enumerate(window.turn_texts)
        ],
        "response_image": face(last) if images[last] is not None else None,
        "reference": window.response_text,
        "reference_emotion": _emotion_name(window.response_emotion),
        "generated": generated,
        "spoken_emotion": EMOTIONS[lexicon.label(generated)],
        "judge": by_emotion(probabilities["judge"]),
    }


def by_emotion(p_C: np.ndarray) -> dict[str, float]:
    """{emotion: probability}, to four digits."""
    return {name: round(float(p), 4) for name, p in zip(EMOTIONS, p_C, strict=True)}


def _emotion_name(emotion: int) -> str | None:
    return None if emotion == UNKNOWN else EMOTIONS[emotion]


def _data_url(jpeg: bytes | None) -> str | None:
    return None if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
