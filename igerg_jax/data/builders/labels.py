"""Names of emotions and of splits in other datasets, and their equivalents here."""

from __future__ import annotations

from igerg_jax.batch import EMOTION_ID, UNKNOWN

# The eight emotions of Mikels and of EmoSet, and common spellings, map to the nearest of the seven.
# Contempt is none of the seven: it stays unlabelled.
_ALSO = {
    "surprise": "surprised awe",
    "fear": "fearful afraid scared",
    "disgust": "disgusted",
    "joy": "happy happiness joyful amusement contentment excitement",
    "sadness": "sad",
    "anger": "angry",
    "neutral": "calm no_emotion none",
}
UNLABELLED = ("contempt", "unknown", "uncertain")
EMOTION_OF: dict[str, int] = (
    EMOTION_ID
    | {word: EMOTION_ID[name] for name, words in _ALSO.items() for word in words.split()}
    | dict.fromkeys(UNLABELLED, UNKNOWN)
)

# {name of a split elsewhere: its name here}
SPLIT_OF = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}


def emotion_id(name: str) -> int | None:
    """Returns the id of an emotion's name, UNKNOWN for one of `UNLABELLED`, None for others."""
    return EMOTION_OF.get(name.strip().lower().replace(" ", "_").replace("-", "_"))
