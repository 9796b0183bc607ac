"""Whether this Python can run the package; one line that says what to do where it cannot.

Imports the standard library alone, and is written so that much older Pythons can read it.
"""

import sys

MIN_PYTHON = (3, 11)  # as pyproject.toml has it
NEEDED = "absl etils flax jax ml_collections numpy optax orbax".split()  # to start any command


def check():
    """Exits with code 2 and a line on stderr where `problem` finds one."""
    found = problem()
    if found:
        sys.stderr.write("error: " + found + "\n")
        sys.exit(2)


def problem():
    """What this Python lacks and what to do about it; "" = nothing."""
    if tuple(sys.version_info[:2]) < MIN_PYTHON:
        lack = "is " + sys.version.split()[0] + ", and Python 3.11 or newer is needed"
    else:
        import importlib.util  # which Python 2 lacks

        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if not missing:
            return ""
        lack = "lacks the packages " + ", ".join(missing)
    return (
        (sys.executable or "this Python") + " " + lack + ": use .venv/bin/python, which "
        "./launch/local.sh makes, or install with 'pip install .' in a Python 3.11 to 3.13"
    )
