"""The progress display: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import tqdm

T = TypeVar("T")
LINE_EVERY_SECONDS = 5.0


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` and reports progress on stderr.

    Args:
      unit: the singular noun for an item.
      total: the number of items, if `items` has no length.
    """
    total = len(items) if total is None else total  # type: ignore[arg-type]
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, desc=label, unit=unit, total=total, dynamic_ncols=True)
        return
    printed = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - printed >= LINE_EVERY_SECONDS:
            printed = time.monotonic()
            print(f"{label}: {done}/{total} {unit}s", file=sys.stderr, flush=True)
        yield item
    print(f"{label}: {total}/{total} {unit}s", file=sys.stderr, flush=True)
