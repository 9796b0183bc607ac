"""Work divided into parts that survive a kill: a part's file is complete or absent.

Parts have fixed boundaries, so that a restart with another number of processes reuses the finished
ones. Nothing here imports JAX or TensorFlow: worker processes start in a second and stay small.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from igerg_jax import storage
from igerg_jax.data.progress import progress
from igerg_jax.errors import UserError

MANIFEST = "files.json"
_SHOWN_BYTES = 2**30  # below that, checksums are too quick for a progress display


def borders(total: int, size: int) -> list[tuple[int, int]]:
    """[start, end) of each part; at least one, so that an empty split gets its columns too."""
    return [(at, min(at + size, total)) for at in range(0, max(total, 1), size)]


def save_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes all of `path`, or nothing."""
    with storage.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def run(
    jobs: Sequence[tuple[Callable, tuple]], workers: int, label: str, start: tuple[Callable, tuple]
) -> None:
    """Runs job(*arguments) for each, in `workers` processes, with a progress display.

    Args:
      jobs: (function, arguments), both picklable.
      workers: 1 = in this process.
      start: (function, arguments) that each process calls first.

    Raises:
      What a job raises; jobs that have not started are cancelled then.
    """
    if not jobs:
        return
    function, arguments = start
    if workers <= 1 or len(jobs) == 1:
        function(*arguments)
        for job, given in progress(jobs, label, "part"):
            job(*given)
        return
    # "spawn": a fork of a process with JAX's or TensorFlow's threads can hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=_begin, initargs=start
    ) as pool:
        futures = [pool.submit(job, *given) for job, given in jobs]
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
            for future in futures:
                future.cancel()


def _begin(function: Callable, arguments: tuple) -> None:
    """Initialises a worker process, and has it end together with its parent.

    A parent that is killed cannot stop its workers; they would wait for work forever.
    """

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    function(*arguments)


def write_manifest(folder: pathlib.Path, workers: int, without: str) -> None:
    """Writes the size and SHA-256 of every file below `folder` into folder/files.json.

    Files in folder/`without` are left out.
    """
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST]
    paths = [p for p in paths if p.relative_to(folder).parts[0] != without]
    sums = _sha256_of(paths, workers, "checksums")
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": found}
        for path, found in zip(paths, sums, strict=True)
    }
    storage.write_text(folder / MANIFEST, json.dumps(files, indent=1) + "\n")


def check_manifest(folder: pathlib.Path, workers: int) -> list[str]:
    """Returns one line for each file below `folder` that is missing or damaged."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return [f"{folder / MANIFEST}: {error}"]
    damaged, expected_sums = [], {}
    for name, expected in files.items():
        path = folder / name
        if not path.exists():
            damaged.append(f"{path} is missing")
        elif path.stat().st_size != expected["bytes"]:
            damaged.append(f"{path} has {path.stat().st_size} bytes, not {expected['bytes']}")
        else:
            expected_sums[path] = expected["sha256"]
    sums = _sha256_of(list(expected_sums), workers, "verifying")
    for (path, expected_sum), found in zip(expected_sums.items(), sums, strict=True):
        if found != expected_sum:
            damaged.append(f"{path} has other bytes than were written")
    return damaged


def _sha256_of(paths: Sequence[pathlib.Path], workers: int, label: str) -> list[str]:
    """The SHA-256 of each file. Threads suffice: hashing releases the GIL."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        found = pool.map(sha256, paths)
        if sum(path.stat().st_size for path in paths) > _SHOWN_BYTES:
            found = progress(found, label, "file", total=len(paths))
        return list(found)


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
