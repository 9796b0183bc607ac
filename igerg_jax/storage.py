"""Files that are complete or absent, on a local disk and in a bucket.

Whoever is killed while writing leaves nothing half-written under the final name. Neither etils nor
tensorflow.io offers this.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TypeVar

from etils import epath

Path = TypeVar("Path", bound=os.PathLike)
UNFINISHED = "unfinished-"  # prefix of temporary names; a killed process leaves such files behind


def is_bucket(path: epath.PathLike) -> bool:
    """Whether `path` is in an object store, where a file appears once it is complete."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`, and renames it to `path` unless the block raises.

    No other process yields the same temporary path. In a bucket, yields `path` itself.
    """
    if is_bucket(path):
        yield path
        return
    temporary = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces the content of `path` by `text`, in UTF-8; readers see the old or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
