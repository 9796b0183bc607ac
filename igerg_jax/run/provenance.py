"""Where a run comes from: its command, code, packages, machine and time."""

import datetime
import functools
import importlib.metadata
import pathlib
import platform
import shlex
import socket
import subprocess
import sys
from typing import Any

import igerg_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow")


def now() -> str:
    """This moment in ISO 8601, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def provenance() -> dict[str, Any]:
    """{"command", "commit" (None where the code is no git clone), "versions", "host", "date"}.

    A commit ends with "-dirty" where files differ from it.
    """
    return {
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit_at_start(),
        "versions": _versions(),
        "host": socket.gethostname(),
        "date": now(),
    }


def commit() -> str | None:
    """The commit of the code as it is on disk now, with "-dirty" where files differ from it; None
    where the code is no git clone."""
    root = pathlib.Path(igerg_jax.__file__).parent.parent
    if not (root / ".git").exists():  # of an installed package, another repository may be around
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    command += ["--exclude=*"]  # no tags
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


_commit_at_start = functools.cache(commit)  # of the code that this process has imported


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"igerg_jax": igerg_jax.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
