"""What tracing a model yields, kept on disk for the next process.

JAX looks a compiled program up by its traced form, so each process traces again what it need not
compile again: for one response by the model `small`, that was more than half of the time. Here what
was traced is looked up by what it was traced from: this package's files, the versions of
what computes (`_PACKAGES`), JAX's settings, and a description that the caller gives. Other code,
such as a vision tower in a notebook, is not looked at; hence nothing is kept until a command calls
`keep_in`.
"""

import functools
import hashlib
import pathlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.export
from etils import epath

from igerg_jax import storage

_PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax")
_DIGEST_BYTES = hashlib.sha256().digest_size
_folder: epath.Path | None = None


def keep_in(folder: epath.PathLike | None) -> None:
    """From now on, `kept` reads and writes files in `folder`; None = it keeps nothing."""
    global _folder
    _folder = None if folder is None else epath.Path(folder)


def keeps() -> bool:
    """Whether `kept` has a folder."""
    return _folder is not None


def kept(description: str, make: Callable[[], bytes]) -> bytes:
    """`make()`, unless a process has kept what it returned for an equal description.

    A folder that cannot be written to keeps nothing.

    Args:
      description: of all that the result depends on besides code, versions and JAX's settings.
    """
    if _folder is None:
        return make()
    path = _folder / _key(description)
    if (content := _read(path)) is None:
        content = make()
        _write(path, content)
    return content


def traced(description: str, function: Callable, *shapes: Any) -> Callable:
    """`function`, to call within another trace; where its trace is kept, it is not traced again.

    Args:
      description: as of `kept`.
      shapes: `jax.ShapeDtypeStruct`s, as the arguments. They and what the function returns may be
        nested in tuples, lists and dicts.

    Raises:
      NotImplementedError: the function calls back to Python, as `jax.debug.print` does.
    """

    def trace() -> bytes:
        return bytes(jax.export.export(jax.jit(function))(*shapes).serialize())

    return jax.export.deserialize(bytearray(kept(description, trace))).call


def _read(path: epath.Path) -> bytes | None:
    """What `_write` was given; None if there is no such file, or it is damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, content = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def _write(path: epath.Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with storage.replacing(path) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
    except OSError:  # it is only slower without
        return


def _key(description: str) -> str:
    settings = sorted(jax.config.values.items(), key=lambda item: item[0])
    parts = _code_digest(), jax.default_backend(), repr(settings), description
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _code_digest() -> str:
    """Of this package's Python files, and of the versions of what computes with them."""
    digest = hashlib.sha256(platform.python_version().encode())
    for name in _PACKAGES:
        digest.update(f"{name} {version(name)}\n".encode())
    root = pathlib.Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()
