"""Checks the Python version and the required packages, before anything else is imported.

Imports only the standard library, and is written so that much older Pythons can parse it.
"""

import sys

MIN_PYTHON = (3, 11)  # the same as in pyproject.toml
NEEDED = "absl etils flax jax ml_collections numpy optax orbax".split()  # by every command


def check():
    """Exits with code 2 and a message on stderr if this Python cannot run the package."""
    message = problem()
    if message:
        sys.stderr.write("error: " + message + "\n")
        sys.exit(2)


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
