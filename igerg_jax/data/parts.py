"""Work divided into parts that survive a kill: a part's file is complete or absent.

Parts have fixed boundaries, so that a restart with another number of processes reuses the finished
ones. Nothing here imports JAX or TensorFlow: worker processes start in a second and stay small.
"""

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import tqdm

from igerg_jax import storage
from igerg_jax.errors import UserError

T = TypeVar("T")
MANIFEST = "files.json"
_SHOWN_BYTES = 2**30  # below that, checksums are too quick for a progress display
_LINE_EVERY_SECONDS = 5.0


def borders(total: int, size: int) -> list[tuple[int, int]]:
    """[start, end) of each part; at least one, so that an empty split gets its columns too."""
    return [(at, min(at + size, total)) for at in range(0, max(total, 1), size)]


def save_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with storage.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def run(jobs: Sequence[Callable[[], None]], workers: int, label: str) -> None:
    """Calls each job, which can be pickled, in `workers` processes (1 = this one); shows progress.

    Raises what a job raises; jobs that have not started are cancelled then.
    """
    if workers <= 1 or len(jobs) <= 1:
        for job in progress(jobs, label, "part"):
            job()
        return
    # "spawn": a fork of a process with JAX's or TensorFlow's threads can hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=_end_with_parent
    ) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            done = concurrent.futures.as_completed(futures)
            for future in progress(done, label, "part", total=len(futures)):
                future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                f"{label}: a process was killed, perhaps for lack of memory; run it again with "
                "fewer processes (config.data.prepare_workers): finished parts are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Has a worker end when its parent does: one that is killed cannot stop its workers."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def write_manifest(folder: pathlib.Path, workers: int, without: str) -> None:
    """Writes the size and SHA-256 of every file below `folder` into folder/files.json.

    Files in folder/`without` are left out.
    """
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in (without, MANIFEST)
    ]
    sums = _sha256_of(paths, workers, "checksums")
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, sums, strict=True)
    }
    storage.write_text(folder / MANIFEST, json.dumps(files, indent=1) + "\n")


def check_manifest(folder: pathlib.Path, workers: int) -> list[str]:
    """Returns one line for each file below `folder` that is missing or damaged."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return [f"{folder / MANIFEST}: {error}"]
    damaged, sums = [], {}
    for name, expected in files.items():
        path = folder / name
        if not path.exists():
            damaged.append(f"{path} is missing")
        elif path.stat().st_size != expected["bytes"]:
            damaged.append(f"{path} has {path.stat().st_size} bytes, not {expected['bytes']}")
        else:
            sums[path] = expected["sha256"]
    actual_sums = zip(sums, _sha256_of(list(sums), workers, "verifying"), strict=True)
    changed = [path for path, sha256 in actual_sums if sha256 != sums[path]]
    return damaged + [f"{path} has other bytes than were written" for path in changed]


def _sha256_of(paths: Sequence[pathlib.Path], workers: int, label: str) -> list[str]:
    """The SHA-256 of each file. Threads suffice: hashing releases the GIL."""

    def sha256(path: pathlib.Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        sums = pool.map(sha256, paths)
        if sum(path.stat().st_size for path in paths) > _SHOWN_BYTES:
            sums = progress(sums, label, "file", total=len(paths))
        return list(sums)


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` and reports progress on stderr: a bar on a terminal, else now and then a line.

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
        if time.monotonic() - printed >= _LINE_EVERY_SECONDS:
            printed = time.monotonic()
            print(f"{label}: {done}/{total} {unit}s", file=sys.stderr, flush=True)
        yield item
    print(f"{label}: {total}/{total} {unit}s", file=sys.stderr, flush=True)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
