"""What guards the training loop: stopping on signals, and a watchdog for steps that hang."""

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[int], int | None]]:
    """Yields a function to call with each finished step's number, which returns the signal that the
    loop should stop for, or None.

    Inside, SIGTERM and SIGINT do not end the process. With several processes JAX's preemption
    service handles SIGTERM, so that all of them stop after the same step; it handles no other
    signal, so SIGINT is passed on as SIGTERM.
    """
    received: list[int] = []
    if jax.process_count() > 1:
        reached = multihost_utils.reached_preemption_sync_point
        handlers = {signal.SIGINT: lambda number, frame: os.kill(os.getpid(), signal.SIGTERM)}
        stop_after = lambda step: signal.SIGTERM if reached(step) else None  # noqa: E731
    else:
        keep = lambda number, frame: received.append(number)  # noqa: E731
        handlers = {signal.SIGTERM: keep, signal.SIGINT: keep}
        stop_after = lambda step: received[0] if received else None  # noqa: E731
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop_after
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def watchdog(stall_seconds: int) -> Iterator[Callable[[], None]]:
    """Dumps every thread's stack to stderr when a step takes over `stall_seconds` (0 = never).

    Yields a function to call after each step.
    """
    if not stall_seconds:
        yield lambda: None
        return

    def reset() -> None:
        faulthandler.dump_traceback_later(stall_seconds, repeat=True)

    reset()
    try:
        yield reset
    finally:
        faulthandler.cancel_dump_traceback_later()
