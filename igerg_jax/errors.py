"""The exceptions that main.py turns into one message."""

from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: exit code 2. The message names what is wrong and what to do about it."""


def check_known(name: str, known: Iterable[str], what: str) -> None:
    """Raises UserError if `name` is not known: `what` says so, and the known names follow."""
    known = list(known)
    if name not in known:
        raise UserError(f"{what}; there are: {', '.join(known)}")


class RunError(RuntimeError):
    """A run that cannot go on. The message says why; main.py prints it and exits with 1."""


class OutOfMemory(RuntimeError):
    """A compiled program does not fit the device: exit code 3. The message says what to change."""
