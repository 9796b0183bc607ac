"""Compares runs on one page, or as Markdown or CSV.

    igerg compare RUN RUN … [--baseline=NAME] [--out=compare.html]
    igerg compare docs/results/local --out= --markdown

A RUN is a workdir, the JSON file of a row, or a folder of either, as launch/ablations.sh writes
them; of a folder of workdirs, the finished ones are taken. Runs of one config with several seeds
are one line: mean ± standard deviation. Configs go by their names (configs/pretrain.py by "full"),
and runs of one config with different settings by those of their folders. Emotion following and
response perplexity are tested against the baseline (by default the first run of
configs/pretrain.py) on the same test windows, by paired bootstrap, corrected by Holm's method. The
page works offline.

--markdown and --csv print; --markdown=FILE and --csv=FILE write. --out= writes no page.
Exit codes: 0; 2 = a mistake in the command or its files, named in one message.
"""

import functools
import sys

from absl import flags

from igerg_jax import environment
from igerg_jax.errors import UserError
from igerg_jax.run import command_line
from igerg_jax.tools.compare import files, page, rows, table, text


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    runs = [argument for argument in argv[1:] if not argument.startswith("-")]
    options = [argument for argument in argv[1:] if argument.startswith("-")]
    bare = [f"{o}={files.PRINT}" if o.lstrip("-") in ("markdown", "csv") else o for o in options]
    values = command_line.parse([argv[0], *bare], define_flags)
    if not runs:
        raise UserError("name the runs to compare: workdirs, rows or folders of rows (see --help)")
    for flag in ("markdown", "csv", "out"):
        if values[flag].value not in ("", files.PRINT):
            command_line.new_file(flag, values[flag].value)
    comparison = table.build(rows.read(runs), values.baseline)
    curves = [key for key in values.curves.split(",") if key]
    files.put(values.markdown, lambda _: text.markdown(comparison))
    files.put(values.csv, lambda _: text.comma_separated(comparison))
    files.put(values.out, lambda folder: page.render(comparison, curves, folder))
    if values.out and values.out != files.PRINT:
        print(values.out, file=sys.stderr)


def define_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, flag_values=values)
    define(
        "baseline",
        None,
        "The config to compare with. Default: the first run of configs/pretrain.py.",
    )
    define("out", "compare.html", "The page to write; empty = none.")
    define("markdown", "", "File of the table as Markdown; without =FILE, it is printed.")
    define("csv", "", "File of the table as CSV; without =FILE, it is printed.")
    help_text = "Learning curves to draw: objectives, or keys of metrics.jsonl."
    define("curves", ",".join(page.CURVES), help_text)
    return values


main = functools.partial(command_line.main, doc=__doc__, define_flags=define_flags, run=run)

if __name__ == "__main__":
    environment.run(main)
