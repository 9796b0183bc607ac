"""One progress display for what takes seconds: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import tqdm

T = TypeVar("T")
LINE_EVERY_SECONDS = 5.0


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yields `items`, telling stderr how far it is; `unit` is the singular noun of an item.

    `total` says how many there are, where `items` has no length.
    """
    total = len(items) if total is None else total  # type: ignore[arg-type]
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, desc=label, unit=unit, total=total, dynamic_ncols=True)
        return
    said = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said >= LINE_EVERY_SECONDS:
            said = time.monotonic()
            print(f"{label}: {done}/{total} {unit}s", file=sys.stderr, flush=True)
        yield item
    print(f"{label}: {total}/{total} {unit}s", file=sys.stderr, flush=True)
