"""Checkpoint integrity: whether the files are still as they were written.

Process 0 lists the files of a checkpoint with their checksums, in files.json, before Orbax marks it
as finished. Before a checkpoint is restored, each process checks its share of the files.
"""

import contextlib
import functools
import sys
import zlib
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from igerg_jax import manifests, storage
from igerg_jax.errors import UserError

RUN = "run"  # the item of a checkpoint that describes its run
PROVENANCE = "provenance"  # a key of RUN in every checkpoint that has a files.json
_WRITTEN_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")  # by Orbax, after the list
_TEXT_BYTES = 1000  # of a text that `allgather_text` gathers


class DamagedCheckpoint(UserError):
    """A checkpoint that is damaged; the message names a file, and what to use instead."""


def steps(folder: epath.Path) -> list[int]:
    """The steps that a folder has checkpoints of, damaged ones included, in order.

    In a bucket, where an interrupted save leaves a folder with the name of a checkpoint, only
    finished ones count; these may be damaged too.
    """
    if not folder.is_dir():
        return []
    # Not "070", which is no name of ours.
    named = [path for path in folder.iterdir() if path.name.isdecimal()]
    names = [path for path in named if path.name == str(int(path.name)) and path.is_dir()]
    if storage.is_bucket(folder):
        names = [path for path in names if ocp.path.step.is_checkpoint_finalized(path)]
    return sorted(int(path.name) for path in names)


def write_list(folder: epath.Path, step: int) -> None:
    """Lists the files of the checkpoint `folder`/`step`, which may still have a temporary name."""
    final = folder / str(step)
    for path in [final] if final.exists() else folder.glob(f"{step}.orbax-*tmp*"):
        manifests.write(path, without=_WRITTEN_LATER)


@functools.lru_cache
def check_once(path: epath.Path) -> None:
    """As `check`, but a checkpoint that was found intact is not read again."""
    check(path)


def check(path: epath.Path) -> None:
    """Checks one checkpoint, in all processes of a run at once.

    Raises:
      DamagedCheckpoint: a file is missing, truncated or changed, or the save never finished.
    """
    problems = [text for text in allgather_text("; ".join(_problems(path)[:3])) if text]
    if problems:
        others = [step for step in steps(path.parent) if str(step) != path.name]
        there = f", or another one ({', '.join(map(str, others))})" if others else ""
        raise DamagedCheckpoint(
            f"checkpoint '{path}' is damaged: {problems[0]}. Give an intact copy of it{there}; "
            "training in its workdir continues from the newest intact one"
        )


def _problems(path: epath.Path) -> list[str]:
    if (path / manifests.FILE).exists():
        count, index = jax.process_count(), jax.process_index()
        return manifests.damage(
            path, compares_checksum=lambda name: zlib.crc32(name.encode()) % count == index
        )
    if f"{RUN}/metadata" not in manifests.list_files(path):
        return [f"{RUN}/metadata is missing"]
    with contextlib.suppress(OSError, ValueError, TypeError):  # JSON that is a number has no "in"
        if PROVENANCE in storage.from_json((path / RUN / "metadata").read_text()):
            return [f"{manifests.FILE} is missing"]
    if jax.process_index() == 0:
        print(
            f"checkpoint '{path}' is older than checksums: it is read unchecked",
            file=sys.stderr,
        )
    return []


@contextlib.contextmanager
def reading(path: epath.Path) -> Iterator[None]:
    """Turns errors of libraries that read a checkpoint without checksums into DamagedCheckpoint."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, LookupError, EOFError) as error:
        if (path / manifests.FILE).exists():  # its bytes are intact: the cause is elsewhere
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedCheckpoint(
            f"checkpoint '{path}' cannot be read: {reason}. Give another one, or an intact copy"
        ) from error


def set_aside(path: epath.Path) -> epath.Path:
    """Moves a damaged checkpoint out of the run's checkpoints folder; returns its new path.

    All processes of a run call this; process 0 moves the folder.
    """
    target = path.parent.parent / "damaged_checkpoints" / path.name
    while target.exists():
        target = target.with_name(f"{target.name}-again")
    allgather_text("")  # every process has seen whether the target exists
    if jax.process_index() == 0:
        if storage.is_bucket(path):
            storage.bucket_files().mv(str(path), str(target), recursive=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    allgather_text("")
    if storage.is_bucket(path):
        storage.bucket_files()  # drops the cached listings, in every process
    return target


def allgather_text(text: str) -> list[str]:
    """Gathers a short string from every process, in the order of their indices."""
    if jax.process_count() == 1:
        return [text]
    padded = np.zeros(_TEXT_BYTES, np.uint8)
    data = text.encode()[:_TEXT_BYTES]
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in np.asarray(rows)]
