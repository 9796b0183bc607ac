"""Work cut into parts that survive a kill: each part's file is whole or absent.

Parts have fixed borders, so that a restart with another number of processes finds those that are
done. A part is written under another name, then renamed. Nothing here imports JAX or TensorFlow:
worker processes start in a second and stay small.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from igerg_jax.data.progress import progress
from igerg_jax.errors import UserError

MANIFEST = "files.json"


def borders(total: int, size: int) -> list[tuple[int, int]]:
    """[start, end) of each part; at least one, so that an empty split has its columns too."""
    return [(at, min(at + size, total)) for at in range(0, max(total, 1), size)]


def save_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes `path` whole or not at all."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)
    unfinished.replace(path)


def run(
    jobs: Sequence[tuple[Callable, tuple]], workers: int, label: str, start: tuple[Callable, tuple]
) -> None:
    """Runs job(*arguments) for each, in `workers` processes, with a progress display.

    Args:
      jobs: functions of a module, with arguments that pickle.
      workers: 1 = in this process.
      start: (function, arguments) that each process calls first.

    Raises:
      What a job raises; jobs that have not begun are dropped then.
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
        min(workers, len(jobs)), context, initializer=function, initargs=arguments
    ) as pool:
        futures = [pool.submit(job, *given) for job, given in jobs]
        try:
            done = concurrent.futures.as_completed(futures)
            for future in progress(done, label, "part", total=len(futures)):
                future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                f"{label}: a process was killed, perhaps for want of memory; run it again with "
                "fewer processes (config.data.prepare_workers): finished parts are kept"
            ) from error
        finally:
            for future in futures:
                future.cancel()


def write_manifest(folder: pathlib.Path) -> None:
    """Writes the size and SHA-256 of every file below `folder` into folder/files.json."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps(files, indent=1) + "\n")


def check_manifest(folder: pathlib.Path) -> list[str]:
    """Returns what is wrong with the files below `folder`: one line each, none when all is well."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return [f"{folder / MANIFEST}: {error}"]
    wrong = []
    for name, expected in progress(list(files.items()), "verifying", "file"):
        path = folder / name
        if not path.exists():
            wrong.append(f"{path} is missing")
        elif path.stat().st_size != expected["bytes"]:
            wrong.append(f"{path} has {path.stat().st_size} bytes, not {expected['bytes']}")
        elif sha256(path) != expected["sha256"]:
            wrong.append(f"{path} has other bytes than were written")
    return wrong


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
