"""Lists of files with sizes and checksums, so that damage is found before the files are trusted.

    <folder>/files.json    {file: {"bytes": size, "crc32c": checksum}}

The checksum is CRC32C as Cloud Storage writes it (base64, big-endian). A bucket's listing has it,
so that nothing is read there, neither to write a list nor to check it; and a folder may be copied
from a bucket to a disk and is still checked. Older lists have "sha256" instead.
"""

import base64
import concurrent.futures
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

import google_crc32c
from etils import epath

from igerg_jax import storage

FILE = "files.json"
_BLOCK_BYTES = 1 << 22

Files = dict[str, dict[str, Any]]  # relative path: {"bytes": …, "crc32c": …}
# (checksums, how many, of how many bytes) -> the same checksums: reports progress
Watch = Callable[[Iterable[str], int, int], Iterable[str]]


def _silently(sums: Iterable[str], count: int, size: int) -> Iterable[str]:
    return sums


def write(folder: epath.PathLike, without: Collection[str] = (), watch: Watch = _silently) -> None:
    """Lists every file below `folder` in its files.json, but for the names and folders at its top
    that are in `without`."""
    files = {
        name: facts
        for name, facts in found(folder).items()
        if name.partition("/")[0] not in (*without, FILE)
    }
    names = [] if storage.is_bucket(folder) else list(files)
    sizes = sum(files[name]["bytes"] for name in names)
    sums = watch(checksums(folder, [(name, "crc32c") for name in names]), len(names), sizes)
    for name, checksum in zip(names, sums, strict=True):
        files[name]["crc32c"] = checksum
    storage.write_text(epath.Path(folder) / FILE, json.dumps(files, indent=1) + "\n")


def add(folder: epath.PathLike, name: str) -> None:
    """Lists a file that was written after the others. Does nothing where there is no list."""
    if not (epath.Path(folder) / FILE).exists():
        return
    facts = found(folder)[name]
    if not storage.is_bucket(folder):
        (facts["crc32c"],) = checksums(folder, [(name, "crc32c")])
    files = read(folder) | {name: facts}
    storage.write_text(epath.Path(folder) / FILE, json.dumps(files, indent=1) + "\n")


def read(folder: epath.PathLike) -> Files:
    """What `write` listed. Raises OSError without a list, ValueError where it is damaged."""
    files = json.loads((epath.Path(folder) / FILE).read_text())
    whole = isinstance(files, dict) and all(
        isinstance(facts, dict) and isinstance(facts.get("bytes"), int) for facts in files.values()
    )
    if not whole:
        raise ValueError("it is no list of files")
    return files


def damage(
    folder: epath.PathLike,
    summed: Callable[[str], bool] = lambda name: True,
    watch: Watch = _silently,
) -> list[str]:
    """One line for each listed file that is not as it was written; the list itself may be.

    Args:
      summed: which files' checksums are compared; sizes are always compared.
    """
    try:
        listed = read(folder)
    except (OSError, ValueError) as error:
        return [f"{FILE}: {error}"]
    there, lines, expected = found(folder), [], {}
    for name, facts in listed.items():
        kind = "crc32c" if "crc32c" in facts else "sha256"
        if name not in there:
            lines.append(f"{name} is missing")
        elif there[name]["bytes"] != facts["bytes"]:
            lines.append(f"{name} has {there[name]['bytes']:,} bytes, not {facts['bytes']:,}")
        elif kind in facts and summed(name) and there[name].get(kind) != facts[kind]:
            expected[name, kind] = facts[kind]
    if storage.is_bucket(folder):  # its listing has all that is known without reading
        sums: Iterable[str] = [
            str(there[name].get(kind, checksum)) for (name, kind), checksum in expected.items()
        ]
    else:
        sizes = sum(there[name]["bytes"] for name, _ in expected)
        sums = watch(checksums(folder, list(expected)), len(expected), sizes)
    pairs = zip(expected.items(), sums, strict=True)
    changed = [name for ((name, _), checksum), now in pairs if now != checksum]
    return lines + [f"{name} has other bytes than were written" for name in changed]


def found(folder: epath.PathLike) -> Files:
    """The files below `folder` with their sizes; in a bucket, with their checksums too."""
    if not storage.is_bucket(folder):
        root = pathlib.Path(folder)
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        return {p.relative_to(root).as_posix(): {"bytes": p.stat().st_size} for p in paths}
    root = os.fspath(folder).removeprefix("gs://").rstrip("/")
    objects = storage.bucket_files().find(root, detail=True)
    return {
        name.removeprefix(f"{root}/"): {"bytes": facts["size"]}
        | {key: facts[key] for key in ("crc32c",) if key in facts}
        for name, facts in sorted(objects.items())
    }


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
