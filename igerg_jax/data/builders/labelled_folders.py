"""Images below folders that are named by split and emotion: <split>/<emotion>/.../<file>."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping

from igerg_jax.data import image_files
from igerg_jax.data.builders.source import SPLIT_OF
from igerg_jax.errors import UserError

NO_EMOTION = "images outside a folder of an emotion"
UNREADABLE = "folders that name no split and cannot be read"


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


def split_folders(folder: pathlib.Path, split_of: Mapping[str, str] = SPLIT_OF) -> list[str]:
    """The names of the folders in `folder` that are named like a split."""
    return sorted(p.name for p in folder.iterdir() if p.name.lower() in split_of and p.is_dir())


def find(
    folder: pathlib.Path,
    emotion_of: Callable[[str], int | None],
    split_of: Mapping[str, str] = SPLIT_OF,
) -> Labelled:
    """Finds the images below `folder`, in whose split folders they are named relative to it.

    Images that lie in it, or in its other folders, are counted for train.

    Args:
      emotion_of: a folder's name -> its emotion, UNKNOWN for none of the seven, None for others.
      split_of: {a split folder's name in lower case: its split}.
    """
    labelled = Labelled({}, {"train": _beside(folder, split_of)}, collections.Counter())
    for place in split_folders(folder, split_of):
        listing = image_files.find(folder / place)
        names = [f"{place}/{name}" for name in listing.names]
        sort_into(labelled, names, emotion_of, split_of)
        labelled.passed_over.setdefault(split_of[place.lower()], collections.Counter()).update(
            listing.passed_over
        )
    return labelled


def _beside(folder: pathlib.Path, split_of: Mapping[str, str]) -> collections.Counter[str]:
    """{reason: how many} of the images in `folder` that are in no folder named like a split."""
    counts: collections.Counter[str] = collections.Counter()
    here = folder.resolve()
    for path in sorted(folder.iterdir()):
        if image_files.is_hidden(path.name) or path.name.lower() in split_of:
            continue
        if not path.is_dir():
            counts[NO_EMOTION] += not image_files.passed_over_reason(path.name)
        elif (real := path.resolve()) == here or real in here.parents:
            counts[image_files.CYCLE] += 1
        else:
            try:
                images = len(image_files.find(path).names)
                counts[f"images in a folder '{path.name}' that names no split"] += images
            except UserError:  # such as a disk's lost+found: it need not be ours
                counts[UNREADABLE] += 1
    return +counts


def sort_into(
    labelled: Labelled,
    names: Iterable[str],
    emotion_of: Callable[[str], int | None],
    split_of: Mapping[str, str] = SPLIT_OF,
) -> None:
    """Adds images to `labelled`; further folders may come before those of split and emotion."""
    for name in names:
        *folders, _ = name.split("/")
        splits = [i for i, part in enumerate(folders) if part.lower() in split_of]
        inside = [i for i in splits if i + 1 < len(folders)]
        # Such as 2 in "archive/train/train/joy/1.jpg".
        known = [i for i in inside if emotion_of(folders[i + 1]) is not None]
        at = next(iter(known + inside[::-1]), None)
        if at is None:
            split = split_of[folders[splits[0]].lower()] if splits else "train"
            labelled.passed_over.setdefault(split, collections.Counter())[NO_EMOTION] += 1
            continue
        split, emotion = split_of[folders[at].lower()], emotion_of(folders[at + 1])
        if emotion is None:
            labelled.unknown[folders[at + 1]] += 1
            reason = f"images in a folder '{folders[at + 1]}'"
            labelled.passed_over.setdefault(split, collections.Counter())[reason] += 1
        else:
            labelled.emotions.setdefault(split, {})[name] = emotion
