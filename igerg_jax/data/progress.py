"""One progress display for what takes seconds: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import tqdm

T = TypeVar("T")
LINE_EVERY_SECONDS = 5.0


def progress(items: Sequence[T], label: str, unit: str) -> Iterator[T]:
    """Yields `items`, telling stderr how far it is; `unit` is the singular noun of an item."""
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, desc=label, unit=unit, dynamic_ncols=True)
        return
    said = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said >= LINE_EVERY_SECONDS:
            said = time.monotonic()
            print(f"{label}: {done}/{len(items)} {unit}s", file=sys.stderr, flush=True)
        yield item
    print(f"{label}: {len(items)}/{len(items)} {unit}s", file=sys.stderr, flush=True)
