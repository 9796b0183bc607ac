"""Work divided into parts that survive a kill: a part's file is whole, or is written again.

Parts have fixed boundaries, so that a restart with another number of processes reuses the finished
ones. Nothing here imports JAX or TensorFlow: worker processes start in a second and stay small.
"""

import concurrent.futures
import contextlib
import functools
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import tqdm

from igerg_jax import manifests, storage
from igerg_jax.errors import UserError

T = TypeVar("T")
_CHECKED = "checked.json"  # in a folder: the files whose checksums were right
_RECORDS = ".array_record"
_SHOWN_BYTES = 2**30  # below that, checksums are too quick for a progress display
_LINE_EVERY_SECONDS = 5.0


def borders(total: int, size: int) -> list[tuple[int, int]]:
    """[start, end) of each part; at least one, so that an empty split gets its columns too."""
    return [(at, min(at + size, total)) for at in range(0, max(total, 1), size)]


def save_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with storage.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def is_whole(path: pathlib.Path) -> bool:
    """Whether a part's file is there as `save_npz` wrote it; after a power failure it may not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # of several types: no file, no zip file, zlib's
        return False


def run(jobs: Sequence[Callable[[], None]], workers: int, label: str) -> None:
    """Calls each (picklable) job in `workers` processes (1 = this one); shows progress.

    Raises what a job raises; jobs that have not started are cancelled then.
    """
    if workers <= 1 or len(jobs) <= 1:
        for job in progress(jobs, label, "part"):
            job()
        return
    # "spawn": a fork of a process with JAX's or TensorFlow's threads can hang.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=_end_with_parent
    ) as pool:
        try:
            with _interrupts_after():
                futures = [pool.submit(job) for job in jobs]
            done = concurrent.futures.as_completed(futures)
            for future in progress(done, label, "part", total=len(futures)):
                future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                f"{label}: a process was killed, perhaps for lack of memory; run it again with "
                "fewer processes (config.data.prepare_workers): finished parts are kept"
            ) from error
        except Exception:
            raise
        except BaseException:  # the program is to end: now, not when the jobs that run are done
            for worker in set(multiprocessing.active_children()).difference(others):
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def naming_a_full_disk(folder: pathlib.Path, label: str, total: int) -> Iterator[None]:
    """Says how much room `total` parts, whose files go to folder/parts, need if the disk is full.

    Raises:
      UserError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not storage.is_disk_full(error):
            raise
        size = sum(facts["bytes"] for facts in manifests.list_files(folder).values())
        done = len(list((folder / "parts").rglob("*.npz")))
        # At least the free space, which was too small for one part; finished parts may be smaller.
        needed = max(shutil.disk_usage(folder).free, (total - done) * size / max(done, 1))
        raise UserError(
            f"{storage.full_disk(folder)} while {label}: {done} of {total} parts are written and "
            f"take {storage.megabytes(size)}; the rest needs over {storage.megabytes(needed)}. "
            "Make room, then repeat the command: what is finished is kept"
        ) from error


@contextlib.contextmanager
def _interrupts_after() -> Iterator[None]:
    """Processes that are started in the block never get Ctrl-C, which a terminal sends to all of a
    program's: each would print a traceback. This one gets it at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Makes a worker exit when its parent does: a parent that is killed cannot stop its workers."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def write_manifest(folder: pathlib.Path, without: str) -> None:
    """Lists the files below `folder` with their checksums, except those in folder/`without`."""
    manifests.write(folder, (without,), functools.partial(_watch, "checksums"))


def check_manifest(folder: pathlib.Path) -> list[str]:
    """Returns one line for each file below `folder` that is missing or damaged."""
    lines = manifests.damage(folder, progress=functools.partial(_watch, "verifying"))
    return [f"{folder}/{line}" for line in lines]


def check_copy(folder: pathlib.Path) -> None:
    """Raises UserError if a file of a prepared folder is not as it was written.

    Sizes are compared in every call, checksums once per copy: folder/checked.json records the
    inodes and change times of the files that were right. ArrayRecord files are left to ArrayRecord,
    which has checksums of its own and compares them when it reads an image.
    """
    paths = [folder / name for name in manifests.list_files(folder) if not name.endswith(_RECORDS)]
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in paths]
    copy = {name: [s.st_ino, s.st_ctime_ns] for name, s in stats if name != _CHECKED}
    note = folder / _CHECKED
    try:
        known = storage.from_json(note.read_text()) == copy
    except (OSError, ValueError):
        known = False
    damaged = manifests.damage(
        folder,
        compares_checksum=lambda name: not known and not name.endswith(_RECORDS),
        progress=functools.partial(_watch, "verifying"),
    )
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise UserError(
            f"damaged: {folder}/{damaged[0]}{more}. Remove the folder '{folder}' and prepare it "
            "again (or copy it again); igerg prepare --config=… --verify lists everything"
        )
    if not known:
        with contextlib.suppress(OSError):  # a read-only copy is checked every time
            storage.write_text(note, json.dumps(copy))


def _watch(label: str, sums: Iterable[str], count: int, size: int) -> Iterable[str]:
    """Shows the progress of `count` checksums if the files have many bytes."""
    return progress(sums, label, "file", total=count) if size > _SHOWN_BYTES else sums


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` and reports progress on stderr: a bar on a terminal, else occasional lines.

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
