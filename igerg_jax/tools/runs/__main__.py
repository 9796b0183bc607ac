"""The runs in a folder on one page: their state and curves, and samples as training goes on.

    igerg runs [FOLDER]                    # writes FOLDER/index.html; FOLDER is ./runs by default
    igerg runs [FOLDER] --serve            # a page that refreshes while runs are active

The page of --serve is at http://127.0.0.1:7861, on the loopback interface alone, and shows the
runs as they are at that moment, and their reports. Ctrl-C ends it. Exit codes: 0; 2 = a mistake in
the command or its files, named in one message.
"""

import contextlib
import functools
import pathlib
import sys

from absl import flags

from igerg_jax import environment, storage
from igerg_jax.errors import UserError
from igerg_jax.run import command_line
from igerg_jax.tools.compare import files
from igerg_jax.tools.runs import page, server, status


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    return command_line.main(argv, __doc__, define_flags, run)


def run(argv: list[str]) -> None:
    """Does what a command line asks for. Raises UserError for what is wrong with it."""
    named = [argument for argument in argv[1:] if not argument.startswith("-")]
    options = [argument for argument in argv[1:] if argument.startswith("-")]
    values = command_line.parse([argv[0], *options], define_flags)
    if len(named) > 1:
        raise UserError(f"name one folder of runs, not {len(named)}")
    folder = storage.local_path(named[0] if named else "runs")
    curves = [key for key in values.curves.split(",") if key]
    if values.out not in ("", files.PRINT) and not values.serve:
        command_line.new_file("out", values.out)
    found = status.find(folder)
    if values.serve:
        serve(values.port, folder, curves)
        return
    out = values.out or str(folder / "index.html")
    files.put(out, lambda at: page.render(found, folder.resolve().name, curves, at))
    print(out, file=sys.stderr)


def serve(port: int, folder: pathlib.Path, curves: list[str]) -> None:
    """Serves the page until Ctrl-C. Raises UserError where the port is taken."""
    with server.Server(port, folder, curves) as found:
        print(f"runs in '{folder}': {found.address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            found.serve_forever()


def define_flags(argv: list[str]) -> flags.FlagValues:
    del argv
    values = flags.FlagValues()
    flags.DEFINE_boolean("serve", False, "Serve the page, and renew it.", flag_values=values)
    flags.DEFINE_integer("port", 7861, "Of --serve; 0 = a free one.", flag_values=values)
    define = functools.partial(flags.DEFINE_string, flag_values=values)
    define("out", "", "The page to write. Default: index.html in the folder.")
    help_text = "Learning curves to draw: objectives, or keys of metrics.jsonl."
    define("curves", ",".join(page.CURVES), help_text)
    return values


if __name__ == "__main__":
    environment.run(main)
