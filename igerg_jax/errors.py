"""Exceptions that end a command with one message, and functions that help to raise them."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence


class UserError(ValueError):
    """Bad input. Each message says what is wrong and how to fix it."""

    exit_code = 2

    def __init__(self, *messages: str):
        super().__init__(*messages)
        self.messages = messages

    def __str__(self) -> str:
        return "\n".join(self.messages)


def check_all(*checks: Callable[[], object]) -> None:
    """Runs all checks, then raises one UserError with the messages of all that failed."""
    messages: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            messages += [message for message in error.messages if message not in messages]
    if messages:
        raise UserError(*messages)


def check_known(name: str, known: Iterable[str], message: str) -> None:
    """Raises UserError unless `name` is one of `known`: `message`, then the known names."""
    known = list(known)
    if name not in known:
        raise UserError(f"{message}; available: {', '.join(known)}")


def check_text(text: str, name: str = "") -> None:
    """Raises UserError for text with lone surrogates: Python's for bytes that are not UTF-8.

    Args:
      name: begins the message; what has this text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode(errors="backslashreplace").decode()
        raise UserError(
            f"{name}'{shown}' is not UTF-8 (character {error.start + 1}): write it in a terminal "
            "or file that uses UTF-8"
        ) from error


def nearest(name: str, names: Sequence[str], count: int = 3) -> list[str]:
    """The `count` names most similar to `name`, compared in full or by their last part."""

    def last(path: str) -> str:
        return re.split(r"[./]", path.removesuffix(".py"))[-1]

    def likeness(other: str) -> tuple[float, float]:
        pairs = [(name, other), (last(name), last(other))]
        ratios = [difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs]
        return max(ratios), sum(ratios)

    return sorted(names, key=likeness, reverse=True)[:count]


class RunError(RuntimeError):
    """A run that cannot continue. Its command exits with the message and `exit_code`."""

    exit_code = 1


class ProcessEnded(RunError):
    """Another process of the run exited early."""

    exit_code = 4


class ProcessMissing(RunError):
    """The processes of a run did not all connect in time."""

    exit_code = 5


class ProcessStalled(RunError):
    """A process of the run no longer responds, or makes no progress."""

    exit_code = 6


class PortTaken(RunError):
    """Another program listens on the coordinator's port."""

    exit_code = 7


class OutOfMemory(RuntimeError):
    """A compiled program does not fit the device. The message says what to change."""

    exit_code = 3
