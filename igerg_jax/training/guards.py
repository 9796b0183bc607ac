"""A watchdog for a run that makes no progress."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator

import jax

from igerg_jax.errors import ProcessStalled
from igerg_jax.parallel.stopping import Stop

_TOO_LONG_SECONDS = 10  # a thread that has not ended the process by then cannot get the GIL


@contextlib.contextmanager
def watchdog(stop: Stop, stall_seconds: float, ends_run: bool) -> Iterator[None]:
    """Dumps every thread's stack to stderr after `stall_seconds` without progress (0 = off).

    Args:
      stop: its checks, after each step and before each batch that is evaluated, are the progress;
        compiling and saving are none.
      ends_run: also end the process, with the exit code of ProcessStalled; otherwise the stacks are
        dumped again after every further `stall_seconds`.
    """
    if not stall_seconds:
        yield
        return
    done = threading.Event()
    last = time.monotonic()

    def reset() -> None:
        nonlocal last
        last = time.monotonic()
        if ends_run:  # in case the thread below cannot run
            faulthandler.dump_traceback_later(stall_seconds + _TOO_LONG_SECONDS, exit=True)
        else:
            faulthandler.dump_traceback_later(stall_seconds, repeat=True)

    def watch() -> None:
        while not done.wait(max(0.1, last + stall_seconds - time.monotonic())):
            if time.monotonic() - last >= stall_seconds:
                _end(stall_seconds)

    reset()
    stop.after_check = reset
    if ends_run:
        threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        stop.after_check = lambda: None
        done.set()
        faulthandler.cancel_dump_traceback_later()


def _end(stall_seconds: float) -> None:
    faulthandler.dump_traceback()
    print(
        f"error: process {jax.process_index()} of {jax.process_count()}: no step or evaluation "
        f"batch has ended for {stall_seconds} s (train.stall_seconds; the stacks above show where "
        "it hangs; if it was only compiling or saving, raise that). Start the run again: it "
        "resumes from its newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    sys.stdout.flush()
    os._exit(ProcessStalled.exit_code)
