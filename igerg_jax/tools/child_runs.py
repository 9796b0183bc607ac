"""Commands that run as children of this process, with their output in a log."""

import contextlib
import pathlib
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

MAX_MESSAGE = 400  # characters of a failure's message


def call(command: Sequence[str], log: pathlib.Path) -> tuple[int, int]:
    """Runs a command; returns (its exit code, the signal that stopped it or 0).

    Its output is appended to `log`. SIGINT, SIGTERM and SIGHUP are passed on to it as SIGTERM, and
    it is waited for, so that it can save its state.
    """
    received: list[int] = []
    children: list[subprocess.Popen] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        for child in children:
            child.send_signal(signal.SIGTERM)

    with _handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), pass_on), log.open("ab") as out:
        # In its own process group, so that Ctrl-C reaches it only once, from here.
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, process_group=0)
        children.append(child)
        if received:  # while it was being started
            child.send_signal(signal.SIGTERM)
        code = child.wait()
    return code, received[0] if received else 0


@contextlib.contextmanager
def _handling(numbers: Sequence[int], handler: Any) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def failure(code: int, log: pathlib.Path, begin: int) -> str:
    """One line on why a run failed, from its output after the first `begin` bytes of `log`."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in re.split("[\r\n]", text)]  # "\r" ends a progress bar's states
    lines = [line for line in lines if line]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = (errors or lines or ["it printed nothing"])[-1][:MAX_MESSAGE]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{reason} ({how})"
