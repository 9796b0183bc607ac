"""Writes a run's report anew: `python -m igerg_jax.report WORKDIR`."""

import sys

from igerg_jax.errors import UserError
from igerg_jax.report import write_report

if len(sys.argv) != 2:
    sys.exit("usage: python -m igerg_jax.report WORKDIR")
try:
    print(write_report(sys.argv[1]))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
