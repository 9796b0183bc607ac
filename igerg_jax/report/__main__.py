"""Rewrites a run's report: `igerg report WORKDIR`."""

import sys

from igerg_jax.errors import UserError
from igerg_jax.report import write_report

USAGE = "igerg report WORKDIR    rewrites WORKDIR/report.html, of a finished or a running run"


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    try:
        if len(argv) != 2:
            raise UserError(f"name one workdir: {USAGE}")
        print(write_report(argv[1]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
