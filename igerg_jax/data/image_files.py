"""Finds image files, and counts the other files beside them."""

import collections
import os
import pathlib
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from igerg_jax.data.image_gate import SUFFIXES
from igerg_jax.errors import UserError

NOT_REGULAR, CYCLE = "pipes, devices or sockets", "links back to a folder above them"
UNNAMED = "images that no turn names"


class ImageListing(NamedTuple):
    """What is below a folder.

    Attributes:
      names: of images, by their ending, relative to the folder, with slashes, sorted. Links that
        lead nowhere are among them: a reader counts them as missing.
      passed_over: {ending such as ".txt", or another reason: how many files}.
    """

    names: list[str]
    passed_over: collections.Counter[str]


def find(folder: pathlib.Path, chosen: Callable[[str], bool] = lambda name: True) -> ImageListing:
    """Finds the images at any depth; follows links to folders, except back to a folder above.

    Files whose name `chosen` rejects are neither found nor counted. Nor are names that begin with a
    dot, which belong to the operating system, such as macOS's "._a.jpg". Raises UserError when a
    folder cannot be read.
    """
    listing = ImageListing([], collections.Counter())
    real = folder.resolve()
    above = [_identity(parent) for parent in real.parents]
    _search(folder, "", above, chosen, listing)
    return listing


def passed_over_reason(name: str) -> str:
    """Why a file is not an image, judging by its name; "" if it may be one."""
    suffix = pathlib.PurePosixPath(name).suffix.lower()
    return "" if suffix in SUFFIXES else suffix or "no ending"


def is_hidden(name: str) -> bool:
    """Whether a part of a file's name (with slashes) begins with a dot, or is macOS's folder."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def count_line(read: int, missing: int, broken: int, passed_over: Mapping[str, int]) -> str:
    """One line on a set of images, such as "images: 12 read, 1 missing, 0 broken, 2 passed over
    (.txt 2)"."""
    line = f"images: {read:,} read, {missing:,} missing, {broken:,} broken"
    line += f", {sum(passed_over.values()):,} passed over"
    kinds = sorted(passed_over.items(), key=lambda pair: (-pair[1], pair[0]))
    return line + (f" ({', '.join(f'{kind} {n:,}' for kind, n in kinds)})" if kinds else "")


def _identity(folder: pathlib.Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _search(
    folder: pathlib.Path,
    prefix: str,
    above: list[tuple[int, int]],
    chosen: Callable[[str], bool],
    listing: ImageListing,
) -> None:
    """Adds what is in `folder` to `listing`; `above` are the folders that lead to it."""
    try:
        here = _identity(folder)
        if here in above:
            listing.passed_over[CYCLE] += 1
            return
        with os.scandir(folder) as entries:
            listed: Iterable[os.DirEntry] = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read the folder '{folder}': {error.strerror}") from error
    for entry in listed:
        if is_hidden(entry.name):
            continue
        try:
            mode = entry.stat().st_mode
        except OSError:  # a link that leads nowhere
            mode = stat.S_IFREG
        name = prefix + entry.name
        if stat.S_ISDIR(mode):
            _search(folder / entry.name, f"{name}/", [*above, here], chosen, listing)
        elif not chosen(name):
            continue
        elif reason := passed_over_reason(entry.name):
            listing.passed_over[reason] += 1
        elif not stat.S_ISREG(mode):
            listing.passed_over[NOT_REGULAR] += 1
        else:
            listing.names.append(name)
