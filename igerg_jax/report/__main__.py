"""Rewrites a run's report: `python -m igerg_jax.report WORKDIR`."""

import sys

from igerg_jax.errors import UserError
from igerg_jax.report import write_report


def main(arguments: list[str]) -> int | str:
    """Returns what `sys.exit` takes: 0, 2 for bad input, or the usage."""
    if len(arguments) != 1:
        return "usage: python -m igerg_jax.report WORKDIR"
    try:
        print(write_report(arguments[0]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
