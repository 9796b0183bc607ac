"""Saves that the operating system refuses: one message says why, and what to do.

Orbax saves in the background. Its threads log the tracebacks of errors that it raises later, and
TensorStore prints those of callbacks that come too late because of such an error: neither is shown.
"""

import contextlib
import functools
import logging
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging as absl_logging
from etils import epath

from igerg_jax import storage
from igerg_jax.errors import UserError

_ARRAY_BYTES = 4096  # what an array takes on a disk, in files and in lists, besides its values


@contextlib.contextmanager
def explained(
    folder: epath.Path, step: int, size: tuple[int, int], newest: Callable[[], int | None]
) -> Iterator[None]:
    """Raises UserError if the block finds that step `step` cannot be saved to `folder`.

    Args:
      size: the bytes of the state that is saved, and how many arrays it has.
      newest: returns the step of the newest checkpoint, None if there is none.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _is_refused(error):
            raise
        with contextlib.suppress(OSError):
            for unfinished in folder.glob(f"{step}.orbax-*tmp*"):
                unfinished.rmtree()
        again = f"then repeat the command: the run continues from step {newest() or 0}"
        if not storage.is_disk_full(error):
            reason = storage.refusal(error)
            raise UserError(
                f"step {step} cannot be saved to '{folder}': {reason}. Mend that, {again}"
            ) from error
        needed = max(_size_on_disk(folder / str(newest())), size[0] + size[1] * _ARRAY_BYTES)
        raise UserError(
            f"{storage.full_disk(folder)} while step {step} was saved: a checkpoint takes up to "
            f"{storage.megabytes(needed)}. Make room, {again}"
        ) from error


def _size_on_disk(checkpoint: epath.Path) -> int:
    """The bytes of a local checkpoint, in whole blocks; 0 if it is not there, or in a bucket."""
    files = () if storage.is_bucket(checkpoint) else pathlib.Path(checkpoint).rglob("*")
    return sum(512 * file.lstat().st_blocks for file in files)


@functools.cache
def silence_threads() -> None:
    """From now on, no thread prints the traceback of a refused save."""
    absl_logging.get_absl_logger().addFilter(_is_news)  # whatever handler shows its records
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log record is not about an error that `explained` reports."""
    error = record.exc_info[1] if record.exc_info else None
    return not ("orbax" in record.pathname and _is_refused(error))


def _is_refused(error: BaseException | None) -> bool:
    return storage.is_disk_full(error) or bool(storage.refusal(error))
