"""Names of emotions in other datasets, and what they are here."""

from __future__ import annotations

from igerg_jax.batch import EMOTION_ID, UNKNOWN

# Contempt is none of the seven: it stays unlabelled. EmoSet's and Mikels' eight and the forms
# that folders are named with go to the nearest of the seven.
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

# {what a split is called elsewhere: what it is called here}
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
    """Returns the id of a name as people write it; UNKNOWN for those with none; None if strange."""
    return EMOTION_OF.get(name.strip().lower().replace(" ", "_").replace("-", "_"))
