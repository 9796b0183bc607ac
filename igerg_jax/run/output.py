"""What the standard streams do not take: a character that a terminal lacks, and, of standard output
that takes no more, anything: `igerg config | head -1`, or a full disk behind ">".

Imports nothing heavy.
"""

import io
import os
import signal
import sys

CLOSED = 128 + signal.SIGPIPE  # the exit code of a program whose reader has gone


def tolerate_encodings() -> None:
    """Makes the standard streams replace characters that they cannot encode or decode."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def on_one_line(message: str) -> str:
    """Line breaks and other controls escaped: they are from a name or a file, not from us."""
    escaped = lambda c: c.encode("unicode_escape").decode("ascii")  # noqa: E731
    return "".join(c if c.isprintable() else escaped(c) for c in message)


def show(text: str) -> int:
    """Prints `text`; returns the exit code, as `failure` does, or 0."""
    try:
        print(text, flush=True)
    except OSError as error:
        if (code := failure(error)) is None:
            raise
        return code
    return 0


def failure(error: BaseException) -> int | None:
    """The exit code after `error` if standard output caused it, else None.

    A reader that has gone, such as `head`, needs no message; anything else is one line.
    """
    if not isinstance(error, OSError) or error.errno is None or error.filename is not None:
        return None
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"\n")  # only trying tells: an error does not name its file
        return None
    except OSError as lost:
        if lost.errno != error.errno:
            return None
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's exit fails too
    if isinstance(error, BrokenPipeError):
        return CLOSED
    print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
    return 2
