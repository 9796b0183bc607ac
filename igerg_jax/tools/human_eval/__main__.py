"""People compare the responses of two runs, without knowing which is whose.

    igerg human_eval --runs=A,B [--out=human_eval.html] [--count=50] [--seed=0]
    igerg human_eval --key=human_eval.key.json ANSWERS.json ANSWERS.json …

The first writes a page that works offline, and its key beside it (--out with .key.json): which
response is whose, which the page does not say. Give annotators the page and keep the key. Each
conversation has the two responses side by side, in random order, and three questions; what is
answered stays in the browser, and Export writes it to a file. The second reads these files, one an
annotator: for each criterion the win rate of A with a 95 % interval over conversations, and the
annotators' agreement (kappa). --json=FILE writes them as JSON, too.

A and B are folders of runs: both have responded to the same test windows in samples.jsonl.
Exit codes: 0; 2 = a mistake in the command or its files, named in one message.
"""

from __future__ import annotations

import functools
import json
import math
import pathlib

from absl import flags

from igerg_jax import environment, storage
from igerg_jax.errors import UserError
from igerg_jax.report import templates
from igerg_jax.run import command_line
from igerg_jax.tools.human_eval import agreement, pairs

WORDS = ("the left one", "no difference", "the right one")  # for `pairs.CHOICES`
TEMPLATE = pathlib.Path(__file__).parent / "human_eval.html"


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    return command_line.main(argv, __doc__, define_flags, run)


def run(argv: list[str]) -> None:
    """Does what a command line asks for. Raises UserError for what is wrong with it."""
    files = [argument for argument in argv[1:] if not argument.startswith("-")]
    options = [argument for argument in argv[1:] if argument.startswith("-")]
    values = command_line.parse([argv[0], *options], define_flags)
    if files or values.key:
        read(files, values.key, values.json)
    else:
        command_line.require(values, "runs")
        write([name.strip() for name in values.runs], values.out, values.count, values.seed)


def write(runs: list[str], out: str, count: int, seed: int) -> None:
    """Writes the page and its key. Raises UserError as `pairs.pairs` and `new_file`."""
    path = command_line.new_file("out", out)
    key_path = command_line.new_file("out", str(path.with_suffix(".key.json")))
    if count < 1:
        raise UserError("--count must be at least 1")
    found = pairs.pairs(runs, count, seed)
    storage.write_text(path, render(found))
    storage.write_text(key_path, json.dumps(pairs.key(found, runs, seed), indent=1) + "\n")
    print(f"{path}: {len(found)} conversations; keep {key_path} from whoever answers")


def render(found: list[pairs.Pair]) -> str:
    """The page, as HTML."""
    return templates.render(
        TEMPLATE,
        title="Which response is better?",
        pairs=found,
        page=pairs.digest(found),
        criteria=pairs.CRITERIA,
        choices=dict(zip(pairs.CHOICES, WORDS, strict=True)),
    )


def read(files: list[str], key: str, out: str) -> None:
    """Prints what annotators say, and writes it to `out` ("" = nowhere).

    Raises:
      UserError: a file is not what it should be.
    """
    if not files or not key:
        raise UserError("name the page's --key and the files that annotators exported")
    path = command_line.new_file("json", out) if out else None
    known = pairs.read_key(key)
    answers = [pairs.read_answers(file, known["page"]) for file in files]
    found = agreement.outcomes(answers, known["left_run"])
    print(agreement.table(found, known["runs"]), end="")
    if path is not None:
        numbers = {
            criterion: {k: None if math.isnan(v) else v for k, v in of._asdict().items()}
            for criterion, of in found.items()
        }
        text = json.dumps({"runs": known["runs"], "criteria": numbers}, indent=1)
        storage.write_text(path, text + "\n")


def define_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, flag_values=values)
    flags.DEFINE_list("runs", [], "Two folders of runs, a comma between them.", flag_values=values)
    define("out", "human_eval.html", "The page to write.")
    flags.DEFINE_integer("count", 50, "Conversations on the page, at most.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the order that they come in.", flag_values=values)
    define("key", "", "A page's key: reads answers to that page.")
    define("json", "", "File for what answers say, as JSON.")
    return values


if __name__ == "__main__":
    environment.run(main)
