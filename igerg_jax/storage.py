"""Paths as users type them, atomic writes, and JSON Lines files.

A writer that is killed never leaves a partial file under the final name, on a local disk or in a
bucket; neither etils nor tensorflow.io offers this. JSON Lines files are appended to, so they may
end in a partial line, which the reader skips.
"""

import contextlib
import errno
import importlib.util
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from etils import epath

from igerg_jax.errors import UserError

Path = TypeVar("Path", epath.Path, pathlib.Path)
_REFUSED = re.compile(r"\[OS error \d+: \w+ ([^\]]+)\]")  # in messages of TensorStore
UNFINISHED = "unfinished-"  # prefix of temporary names; a killed process leaves such files behind


def parse_path(text: str) -> epath.Path:
    """A path as typed: "~" is the home folder, gs:// a Google Cloud Storage bucket.

    Raises:
      UserError: another scheme than gs://, gcsfs is not installed, or as `local_path`.
    """
    scheme, colon, place = text.partition("://")
    if not colon:
        return epath.Path(local_path(text))
    if scheme != "gs" or not place.strip("/"):
        raise UserError(f"'{text}': paths are local, or gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"'{text}': gs:// needs gcsfs: pip install -r requirements-gcs.txt")
    return epath.Path(text)


def local_path(text: str) -> pathlib.Path:
    """A local path as typed: "~" is the home folder.

    Raises:
      UserError: it begins with "~NAME", and there is no such user.
    """
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        name = text.partition("/")[0]
        raise UserError(f"'{text}': '{name}' is nobody's home; for a file of this name: './{text}'")
    return pathlib.Path(expanded)


def is_bucket(path: epath.PathLike) -> bool:
    """Whether `path` is in an object store, where a file appears only once it is complete."""
    return "://" in os.fspath(path)


def bucket_files() -> Any:
    """The gcsfs file system that epath uses (fsspec caches one per arguments), with its cached
    listings dropped, because other processes write to the bucket too."""
    import fsspec  # comes with gcsfs, which `parse_path` requires

    files = fsspec.filesystem("gcs", finalize_on_close=True)
    files.invalidate_cache()
    return files


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`, and renames it to `path` unless the block raises.

    No other process yields the same temporary path. In a bucket, yields `path` itself.

    Raises:
      IsADirectoryError: `path` is a folder.
    """
    if is_bucket(path):
        yield path
        return
    if path.is_dir():  # epath's own exception has neither an errno nor the name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    temporary = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` in UTF-8; readers see either the old content or the new.

    A lone surrogate, Python's for a byte of a name that is not UTF-8, becomes its escape (\\udce9),
    which JSON reads back.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(encoded(text))


def encoded(text: str) -> bytes:
    """`text` in UTF-8, lone surrogates as `write_text` writes them."""
    return text.encode("utf-8", "backslashreplace")


def check_regular_file(path: pathlib.Path | epath.Path) -> None:
    """Raises UserError for a folder, a device, a socket, or a pipe, which nobody may ever write to.

    A path where there is nothing passes.
    """
    if path.exists() and not is_regular_file(path):
        raise UserError(f"cannot read '{path}': it is not a regular file")


def is_regular_file(path: epath.PathLike) -> bool:
    """Whether there is a file that can be read to its end. (epath calls a pipe a file too.)"""
    return epath.Path(path).is_file() if is_bucket(path) else pathlib.Path(path).is_file()


def from_json(text: str | bytes) -> Any:
    """What a JSON text holds. Raises ValueError for any other text, also if nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json_object(path: epath.PathLike) -> dict[str, Any]:
    """The object in a .json file; {} if there is no file. Raises UserError for anything else."""
    path = epath.Path(path)
    if not path.exists():
        return {}
    check_regular_file(path)
    try:
        value = from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path}' is not JSON ({error}); delete it or run again") from error
    if not isinstance(value, dict):
        raise UserError(f"'{path}' is JSON but not an object; delete it or run again")
    return value


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one of its causes, says that a disk or quota is full."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True  # TensorStore and ArrayRecord have no exceptions of their own for it
        error = error.__cause__ or error.__context__
    return False


def refusal(error: BaseException | None) -> str:
    """Why the operating system refused what an exception, or one of its causes, is about; or ""."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno)
        if found := _REFUSED.search(str(error)):
            return found[1]
        error = error.__cause__ or error.__context__
    return ""


def full_disk(folder: epath.PathLike) -> str:
    """ "the disk of 'FOLDER' is full (3 MB are free)"."""
    place = pathlib.Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return f"the disk of '{folder}' is full ({megabytes(shutil.disk_usage(place).free)} are free)"


def megabytes(size: float) -> str:
    """`size` bytes in MB, with a decimal if below 10 MB."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


class JsonLines(NamedTuple):
    """The content of a JSON Lines file."""

    objects: list[dict[str, Any]]
    bad_lines: int  # not UTF-8, not JSON (a killed run leaves a partial line), or not an object


def read_json_lines(path: epath.PathLike) -> JsonLines:
    """The objects of a .jsonl file, one per line; none if there is no file. Raises UserError for
    what is no file.

    Only "\\n" ends a line: JSON strings may contain the other characters at which
    `str.splitlines` splits, such as U+2028.
    """
    path = epath.Path(path)
    check_regular_file(path)
    content = path.read_bytes() if path.exists() else b""
    lines = [line for line in content.split(b"\n") if line.strip()]
    objects = []
    for line in lines:
        try:
            value = from_json(line.decode("utf-8"))
        except ValueError:
            continue
        if isinstance(value, dict):
            objects.append(value)
    return JsonLines(objects, len(lines) - len(objects))


def step_of(line: Mapping[str, Any]) -> float:
    """The training step of a line; infinity for one that has none."""
    step = line.get("step")
    return step if isinstance(step, int | float) else math.inf
