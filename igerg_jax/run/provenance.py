"""The provenance of a run: its command, code, package versions, machine and time."""

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
    """The current time in ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def provenance() -> dict[str, Any]:
    """{"command", "commit" (that of `commit` at the first call), "versions", "host", "date"}."""
    return {
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit_at_start(),
        "versions": _versions(),
        "host": socket.gethostname(),
        "date": now(),
    }


def commit() -> str | None:
    """The commit of the code that is on disk now, with "-dirty" if files differ from it.

    None if the code is not a git clone.
    """
    root = pathlib.Path(igerg_jax.__file__).parent.parent
    if not (root / ".git").exists():  # an installed package may lie in some other repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    command += ["--exclude=*"]  # no tags
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


_commit_at_start = functools.cache(commit)  # of the code that this process has imported


def cpu_model() -> str:
    """The model of this machine's CPU, such as "AMD EPYC 7B13"."""
    info = pathlib.Path("/proc/cpuinfo")
    for line in info.read_text().split("\n") if info.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"igerg_jax": igerg_jax.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
