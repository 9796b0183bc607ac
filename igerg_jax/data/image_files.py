"""Finds image files by folder or pattern, and names them as datasets name their images."""

from __future__ import annotations

import glob
import pathlib
from typing import NamedTuple

from igerg_jax.data.builders.source import IMAGE_SUFFIXES
from igerg_jax.errors import UserError


class Files(NamedTuple):
    """Image files below one folder."""

    folder: pathlib.Path
    names: tuple[str, ...]  # below the folder, with slashes, sorted


def find(pattern: str) -> Files:
    """The images below a folder, or those that match a glob pattern ("**" = any depth).

    A pattern's folder is the part before its first wildcard. If that is a dataset's folder, the
    names equal the dataset's `image_id`s, such as "train_images/17.jpg" for OpenViDial.

    Raises:
      UserError: there are no images.
    """
    path = pathlib.Path(pattern).expanduser()
    wild = [i for i, part in enumerate(path.parts) if glob.has_magic(part)]
    if path.is_dir() or not wild:
        folder, found = path, path.rglob("*")
    else:
        folder = pathlib.Path(*path.parts[: wild[0]])
        found = map(pathlib.Path, glob.iglob(str(path), recursive=True))
    images = (p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    names = tuple(sorted({p.relative_to(folder).as_posix() for p in images}))
    if not names:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"--images '{pattern}' is no folder or pattern with image files ({kinds})")
    return Files(folder, names)
