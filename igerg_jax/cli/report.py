"""Rewrites the report of a run, finished or running.

    igerg report WORKDIR

It reads what the run has left in its folder so far, and writes WORKDIR/report.html.
Exit codes: 0; 2 = a mistake in the command or its files, named in one message.
"""

import functools

from absl import flags

from igerg_jax import environment, report, storage
from igerg_jax.errors import UserError
from igerg_jax.run import command_line


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    named = [argument for argument in argv[1:] if not argument.startswith("-")]
    options = [argument for argument in argv[1:] if argument.startswith("-")]
    command_line.parse([argv[0], *options], define_flags)
    if len(named) != 1:
        raise UserError("name one workdir: igerg report WORKDIR")
    print(report.write_report(storage.parse_path(named[0])))


def define_flags(argv: list[str]) -> flags.FlagValues:
    """None."""
    del argv
    return flags.FlagValues()


main = functools.partial(command_line.main, doc=__doc__, define_flags=define_flags, run=run)

if __name__ == "__main__":
    environment.run(main)
