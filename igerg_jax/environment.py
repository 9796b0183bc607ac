"""What comes before all imports: checks of the Python version and packages, Ctrl-C, and how memory
is reused; and how a program ends.

Imports only the standard library, and is written so that much older Pythons can parse it.
"""

import contextlib
import ctypes
import glob
import io
import os
import signal
import sys
import threading

MIN_PYTHON = (3, 11)  # the same as in pyproject.toml
NEEDED = "absl etils flax jax ml_collections numpy optax orbax".split()  # by every command

# Where hosts of TPUs and NVIDIA GPUs have their devices.
ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*")


def check():
    """Exits with code 2 and a message on stderr if this Python cannot run the package."""
    message = problem()
    if message:
        sys.stderr.write("error: " + message + "\n")
        sys.exit(2)


@contextlib.contextmanager
def interrupts_end():
    """While modules are imported: Ctrl-C ends this process at once, with exit code 130.

    A KeyboardInterrupt could be lost in a library that catches whatever its imports raise, and the
    run would go on; where it is not, it ends in a long traceback.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if before is not signal.default_int_handler or not in_main_thread:
        yield  # ignored, as in the background, or handled by who imports this
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number, frame):
    os.write(2, b"interrupted\n")
    os._exit(130)


class _Lasting(io.FileIO):
    """Drops what it cannot write: its terminal is closed, the reader of its pipe has gone, as that
    of `2>&1 | tee log` at Ctrl-C, or a pipe that does not block is full. A run goes on without, and
    can still save."""

    def write(self, data):
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written  # None: it is full


def run(main):
    """Calls a program's `main` with the command line; ends the process with the code it returns.
    Meanwhile no error of the standard error ends it, and memory is reused (`keep_freed_memory`).

    Python's own teardown is left out: a compilation that Ctrl-C or SIGTERM cuts short goes on in a
    thread of XLA's, for which the teardown waits, and which crashes as the teardown takes away what
    it uses. With several processes, JAX parts from the others in that teardown, where
    `parallel.processes.abandon` does not end it.
    """
    if isinstance(sys.stderr, io.TextIOWrapper):
        how = {"encoding": sys.stderr.encoding, "errors": sys.stderr.errors}
        file = io.BufferedWriter(_Lasting(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(file, line_buffering=True, **how)
    keep_freed_memory()
    try:
        code = main(sys.argv)
    except SystemExit as stopped:
        code = stopped.code
    jax = sys.modules.get("jax")
    if not isinstance(code, int) or (jax is not None and jax.distributed.is_initialized()):
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it is where it was closed from the start
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(code)


def keep_freed_memory():
    """Has glibc keep memory that is freed, for what is allocated next. Returns whether it does.

    Each call of a program that XLA compiled for a CPU allocates its temporary arrays and frees
    them. By itself, glibc gets each large one from the kernel, which clears it page by page, and
    gives it back: that was 30 % of the default run's step (benchmarks/README.md).

    Not on hosts of accelerators, which run other programs, and threads by the hundred. Call it
    before threads are started: those that are would keep arenas of their own, which are bounded.
    """
    if any(glob.glob(pattern) for pattern in ACCELERATORS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # other C libraries; Windows
        return False
    # Numbers from malloc.h. More than 2 GiB that are free at the end of the heap are given back.
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
    kept = [mallopt(m_arena_max, 1), mallopt(m_mmap_max, 0), mallopt(m_trim_threshold, 2**31 - 1)]
    return all(kept)


def release_free_memory():
    """Gives memory that glibc keeps and nothing uses back to the kernel. Returns whether it could.

    For after compilation, which needs more than twice what training does: `keep_freed_memory`
    would hold it until the program ends.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0)))
    except (AttributeError, OSError, TypeError):  # other C libraries; Windows
        return False


def problem():
    """Returns what this Python lacks and how to fix it; "" = nothing is missing."""
    if tuple(sys.version_info[:2]) < MIN_PYTHON:
        lack = "is " + sys.version.split()[0] + ", and Python 3.11 or newer is needed"
    else:
        import importlib.util  # not in Python 2

        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if not missing:
            return ""
        lack = "lacks the packages " + ", ".join(missing)
    return (
        (sys.executable or "this Python") + " " + lack + ": use .venv/bin/python, which "
        "./launch/local.sh creates, or install with 'pip install .' in a Python 3.11 to 3.13"
    )
