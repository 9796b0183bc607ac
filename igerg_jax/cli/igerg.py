"""The command `igerg`, which dispatches to the modules in `COMMANDS`."""

import difflib
import importlib
import sys
from typing import NamedTuple

import igerg_jax
from igerg_jax import environment
from igerg_jax.run import output


class Command(NamedTuple):
    """A module whose `main(argv)` returns the exit code; argv[0] is the program's name."""

    module: str
    summary: str
    mode: str = ""  # the mode, if the module is `igerg_jax.cli.main`


COMMANDS = {
    "train": Command("igerg_jax.cli.main", "Train a model, or resume a run.", "train"),
    "evaluate": Command("igerg_jax.cli.main", "Evaluate a checkpoint.", "evaluate"),
    "generate": Command(
        "igerg_jax.cli.main", "Respond to a conversation, or to the test split.", "generate"
    ),
    "chat": Command("igerg_jax.cli.main", "Talk with a model in the terminal.", "chat"),
    "demo": Command("igerg_jax.tools.demo.__main__", "Talk with a model in a browser."),
    "compare": Command("igerg_jax.tools.compare.__main__", "Compare runs, as a page or a table."),
    "human_eval": Command(
        "igerg_jax.tools.human_eval.__main__", "Have people compare two runs' responses, blind."
    ),
    "runs": Command("igerg_jax.tools.runs.__main__", "Watch runs: a page of all in a folder."),
    "report": Command("igerg_jax.cli.report", "Rewrite the report of a run."),
    "compile": Command(
        "igerg_jax.cli.main",
        "Compile the training step; print its memory, FLOPs and times.",
        "compile",
    ),
    "prepare": Command("igerg_jax.data.prepare", "Prepare data ahead of training."),
    "show": Command("igerg_jax.tools.show.__main__", "Show what each objective receives."),
    "label": Command(
        "igerg_jax.tools.label_emotions", "Label images with the emotions seen in them."
    ),
    "weights": Command("igerg_jax.tools.weights.__main__", "Import, export and share weights."),
    "config": Command("igerg_jax.cli.config", "Print a config's keys and what they mean."),
}
HELP = """igerg_jax {version}: vision-language models that respond with emotion.

    igerg COMMAND [--FLAG=VALUE …]       igerg COMMAND --help lists its flags

{commands}

First steps:

    igerg chat --checkpoint=small                    # a model that comes with the package
    igerg train --config=configs/pretrain.py         # minutes on a CPU
    igerg train --config=mine.py:PRESET --config.train.steps=2000"""


def main(argv: list[str] | None = None) -> int:
    """Runs a command line (default: this process's) and returns its exit code."""
    output.tolerate_encodings()
    environment.check()  # before imports that would fail
    words = sys.argv[1:] if argv is None else argv[1:]
    if not words or words[0] in ("help", "-h", "--help", "--helpfull"):
        return output.show(help_text())
    if words[0] == "--version":
        return output.show(igerg_jax.__version__)
    name, *rest = words
    if name not in COMMANDS:
        print(f"error: {output.on_one_line(unknown(name))}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    with environment.interrupts_end():
        module = importlib.import_module(command.module)
    options = {"mode": command.mode, "summary": command.summary} if command.mode else {}
    return module.main([f"igerg {name}", *rest], **options)


def help_text() -> str:
    """What `igerg --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"    {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return HELP.format(version=igerg_jax.__version__, commands="\n".join(lines))


def unknown(word: str) -> str:
    """The message about a first word that is not a command."""
    if word.startswith("-"):
        return f"name a command first, as in 'igerg train {word}' (see igerg --help)"
    near = difflib.get_close_matches(word, COMMANDS, 1)
    hint = (
        f"did you mean 'igerg {near[0]}'?" if near else f"the commands are: {', '.join(COMMANDS)}"
    )
    return f"'{word}' is not a command of igerg; {hint}"


def program() -> None:
    """What the installed command `igerg` calls."""
    environment.run(main)


if __name__ == "__main__":
    program()
