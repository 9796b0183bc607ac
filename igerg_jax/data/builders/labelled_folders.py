"""Images below folders that are named by split and emotion: <split>/<emotion>/.../<file>."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable

from igerg_jax.data import image_files
from igerg_jax.data.builders.source import SPLIT_OF

NO_EMOTION = "images outside a folder of an emotion"


@dataclasses.dataclass
class Labelled:
    """The images of each split.

    Attributes:
      emotions: {split: {name: emotion id}}.
      passed_over: {split: {reason: how many}}.
      unknown: {name: images} of folders that should be named by an emotion, and are not.
    """

    emotions: dict[str, dict[str, int]]
    passed_over: dict[str, collections.Counter[str]]
    unknown: collections.Counter[str]


def split_folders(folder: pathlib.Path) -> list[str]:
    """The names of the folders in `folder` that are named like a split."""
    return sorted(p.name for p in folder.iterdir() if p.name.lower() in SPLIT_OF and p.is_dir())


def find(folder: pathlib.Path, emotion_of: Callable[[str], int | None]) -> Labelled:
    """Finds the images below `folder`, in whose split folders they are named relative to it.

    Args:
      emotion_of: a folder's name -> its emotion, UNKNOWN for none of the seven, None for others.
    """
    labelled = Labelled({}, {}, collections.Counter())
    for place in split_folders(folder):
        listing = image_files.find(folder / place)
        sort_into(labelled, [f"{place}/{name}" for name in listing.names], emotion_of)
        labelled.passed_over.setdefault(SPLIT_OF[place.lower()], collections.Counter()).update(
            listing.passed_over
        )
    return labelled


def sort_into(
    labelled: Labelled, names: Iterable[str], emotion_of: Callable[[str], int | None]
) -> None:
    """Adds images to `labelled`; further folders may come before those of split and emotion."""
    for name in names:
        *folders, _ = name.split("/")
        splits = [i for i, part in enumerate(folders) if part.lower() in SPLIT_OF]
        inside = [i for i in splits if i + 1 < len(folders)]
        # Such as 2 in "archive/train/train/joy/1.jpg".
        known = [i for i in inside if emotion_of(folders[i + 1]) is not None]
        at = next(iter(known + inside[::-1]), None)
        if at is None:
            split = SPLIT_OF[folders[splits[0]].lower()] if splits else "train"
            labelled.passed_over.setdefault(split, collections.Counter())[NO_EMOTION] += 1
            continue
        split, emotion = SPLIT_OF[folders[at].lower()], emotion_of(folders[at + 1])
        if emotion is None:
            labelled.unknown[folders[at + 1]] += 1
            reason = f"images in a folder '{folders[at + 1]}'"
            labelled.passed_over.setdefault(split, collections.Counter())[reason] += 1
        else:
            labelled.emotions.setdefault(split, {})[name] = emotion
