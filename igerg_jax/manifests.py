"""Lists of files with sizes and checksums, so that damage is found before the files are used.

    <folder>/files.json    {file: {"bytes": size, "crc32c": checksum}}

The checksum is CRC32C in Cloud Storage's notation (base64, big-endian). A bucket's listing includes
it, so lists there are written and checked without reading the files, and a folder that is copied
from a bucket to a disk can still be checked. Older lists have "sha256" instead.
"""

import base64
import concurrent.futures
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import google_crc32c
from etils import epath

from igerg_jax import storage

FILE = "files.json"
_BLOCK_BYTES = 1 << 22

Files = dict[str, dict[str, Any]]  # relative path: {"bytes": …, "crc32c": …}
# (checksums, number of files, bytes in all) -> the same checksums; reports progress meanwhile
Progress = Callable[[Iterable[str], int, int], Iterable[str]]


def _no_progress(sums: Iterable[str], count: int, size: int) -> Iterable[str]:
    return sums


def write(
    folder: epath.PathLike, without: Collection[str] = (), progress: Progress = _no_progress
) -> None:
    """Writes files.json, which lists every file below `folder`.

    Args:
      without: top-level files and folders to leave out.
    """
    files = {
        name: facts
        for name, facts in list_files(folder).items()
        if name.partition("/")[0] not in (*without, FILE)
    }
    names = [] if storage.is_bucket(folder) else list(files)
    sizes = sum(files[name]["bytes"] for name in names)
    sums = progress(checksums(folder, [(name, "crc32c") for name in names]), len(names), sizes)
    for name, checksum in zip(names, sums, strict=True):
        files[name]["crc32c"] = checksum
    storage.write_text(epath.Path(folder) / FILE, json.dumps(files, indent=1) + "\n")


def add(folder: epath.PathLike, name: str) -> None:
    """Adds a file to files.json, or replaces its entry; does nothing if there is no files.json."""
    if not (epath.Path(folder) / FILE).exists():
        return
    facts = list_files(folder)[name]
    if not storage.is_bucket(folder):
        (facts["crc32c"],) = checksums(folder, [(name, "crc32c")])
    files = read(folder) | {name: facts}
    storage.write_text(epath.Path(folder) / FILE, json.dumps(files, indent=1) + "\n")


def read(folder: epath.PathLike) -> Files:
    """The content of files.json. Raises OSError if there is none, ValueError if it is damaged."""
    path = epath.Path(folder) / FILE
    if path.exists() and FILE not in list_files(folder):  # a pipe would be waited for
        raise ValueError("it is not a regular file")
    files = storage.from_json(path.read_text())
    is_valid = isinstance(files, dict) and all(
        isinstance(facts, dict) and isinstance(facts.get("bytes"), int) for facts in files.values()
    )
    if not files or not is_valid:
        raise ValueError("it is not a list of files")
    return files


def damage(
    folder: epath.PathLike,
    compares_checksum: Callable[[str], bool] = lambda name: True,
    progress: Progress = _no_progress,
) -> list[str]:
    """Returns a line for each listed file that is missing or changed, or one if the list itself is.

    Args:
      compares_checksum: whether to compare a file's checksum, by name; sizes always are.
    """
    try:
        listed = read(folder)
    except (OSError, ValueError) as error:
        return [f"{FILE}: {error}"]
    actual, lines, expected = list_files(folder), [], {}
    for name, facts in listed.items():
        kind = "crc32c" if "crc32c" in facts else "sha256"
        if name not in actual:
            lines.append(f"{name} is missing")
        elif actual[name]["bytes"] != facts["bytes"]:
            lines.append(f"{name} has {actual[name]['bytes']:,} bytes, not {facts['bytes']:,}")
        elif kind in facts and compares_checksum(name) and actual[name].get(kind) != facts[kind]:
            expected[name, kind] = facts[kind]
    if storage.is_bucket(folder):  # has no checksums but those of its listing
        sums: Iterable[str] = [
            str(actual[name].get(kind, checksum)) for (name, kind), checksum in expected.items()
        ]
    else:
        sizes = sum(actual[name]["bytes"] for name, _ in expected)
        sums = progress(checksums(folder, list(expected)), len(expected), sizes)
    pairs = zip(expected.items(), sums, strict=True)
    changed = [name for ((name, _), checksum), now in pairs if now != checksum]
    return lines + [f"{name} differs from what was written" for name in changed]


def list_files(folder: epath.PathLike) -> Files:
    """The files below `folder` with their sizes, and in a bucket also their checksums.

    Links to folders, such as to another disk, are followed, except back to a folder above.
    """
    if not storage.is_bucket(folder):
        root = pathlib.Path(folder)
        paths = sorted(_local_files(root, list(root.resolve().parents)))
        return {p.relative_to(root).as_posix(): {"bytes": p.stat().st_size} for p in paths}
    root = os.fspath(folder).removeprefix("gs://").rstrip("/")
    objects = storage.bucket_files().find(root, detail=True)
    return {
        name.removeprefix(f"{root}/"): {"bytes": facts["size"]}
        | {key: facts[key] for key in ("crc32c",) if key in facts}
        for name, facts in sorted(objects.items())
    }


def _local_files(folder: pathlib.Path, above: list[pathlib.Path]) -> Iterator[pathlib.Path]:
    """The files below `folder`; `above` are the folders, without links, that lead to it."""
    real = folder.resolve()
    if real in above:
        return
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        if path.is_dir():
            yield from _local_files(path, [*above, real])
        elif path.is_file():
            yield path


def checksums(folder: epath.PathLike, files: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Yields the checksum of each (file, "crc32c" or "sha256"), on a local disk.

    Threads suffice: reading and summing release the GIL.
    """
    root = pathlib.Path(folder)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield from pool.map(lambda item: _checksum(root / item[0], item[1]), files)


def _checksum(path: pathlib.Path, kind: str) -> str:
    with path.open("rb") as file:
        if kind == "sha256":
            return hashlib.file_digest(file, kind).hexdigest()
        value = 0
        while block := file.read(_BLOCK_BYTES):
            value = google_crc32c.extend(value, block)
        return base64.b64encode(value.to_bytes(4, "big")).decode()
