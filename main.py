"""Trains, evaluates, and talks with an emotion-aware vision-language model.

    python main.py --config=configs/pretrain.py                      # "local": minutes on a CPU
    python main.py --config=configs/pretrain.py:base --config.data.dataset=synthetic
    python main.py --config=configs/pretrain.py --mode=evaluate
    python main.py --config=configs/pretrain.py --mode=generate --image=face.png --context="Hi!"

--config=FILE[:PRESET] is one of configs/*.py; --config.KEY=VALUE changes one of its keys. The
same command goes on where a run was stopped. Exit codes: 0; 2 = something to mend in the command
or its files, told in one message; 3 = compiled, but does not fit the device; 1 = the run itself
failed; 130 and 143 = stopped by Ctrl-C or SIGTERM, the state saved.

Conversations, with --mode=generate: give each turn as a --context, oldest first, and each turn's
face as an --image in the same order (--image= for a turn without). One --image more than there
are turns is the face of the one who answers.
"""

from __future__ import annotations

import os
import sys

from absl import flags
from ml_collections import ConfigDict

from igerg_jax.errors import UserError
from igerg_jax.run import command_line

MODES = ("train", "evaluate", "generate", "compile")


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    return command_line.main(
        argv, __doc__, define_flags, lambda argv: run(parse(argv)), leave_others
    )


def leave_others(code: int) -> None:
    """Has a process of several that failed end at once, with `code`."""
    distributed = sys.modules.get("igerg_jax.parallel.processes")
    if distributed:  # imported once a command line was found to be in order
        distributed.abandon(code)


def define_flags(argv: list[str]) -> flags.FlagValues:
    """The flags of one command line."""
    values = command_line.new_flags(argv)
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run: checkpoints, metrics, report. Default: runs/<config>-<preset>.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "checkpoint",
        None,
        "To evaluate or generate with: a workdir, or one of its checkpoints. Default: --workdir. "
        "With --checkpoint and no --workdir, evaluating prints and writes nothing.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "context", [], "A turn's words; repeat it, oldest first.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "image", [], "A turn's image file; repeat it, in the turns' order.", flag_values=values
    )
    flags.DEFINE_string(
        "topology",
        "",
        "To compile for, with --mode=compile: a TPU topology such as v5e:16x16. Default: this "
        "machine's devices.",
        flag_values=values,
    )
    flags.DEFINE_integer("slices", 1, "How many such topologies.", flag_values=values)
    flags.DEFINE_string(
        "report", None, "With --mode=compile: also write it to this file, JSON.", flag_values=values
    )
    flags.DEFINE_boolean(
        "search",
        False,
        "With --mode=compile: find the largest batch that fits, by remat policies.",
        flag_values=values,
    )
    return values


def parse(argv: list[str]) -> flags.FlagValues:
    """Parses a command line, the config file and its overrides included.

    Raises:
      UserError: whatever is wrong with them.
    """
    values = command_line.parse(argv, define_flags)
    if values.mode != "generate" and (values.context or values.image):
        raise UserError("--context and --image go with --mode=generate")
    compiling = values.topology or values.report or values.search or values.slices != 1
    if values.mode != "compile" and compiling:
        raise UserError("--topology, --slices, --search and --report go with --mode=compile")
    if values.slices < 1 or (values.slices > 1 and not values.topology):
        raise UserError("--slices counts the topologies that --topology names, from 1")
    return values


def run(values: flags.FlagValues) -> None:
    """Does what parsed flags ask for. Raises UserError, RunError."""
    from igerg_jax.run import workdirs

    config, checkpoint = values.config, values.checkpoint
    workdir = workdirs.parse(values.workdir) if values.workdir else None
    if workdir is None and not (checkpoint and values.mode != "train"):
        workdir = workdirs.default(config)
    if values.mode == "train":
        check_start(config, checkpoint)
    turns = pair(values.context, values.image) if values.context or values.image else None
    if workdir is not None and values.mode != "compile" and turns is None:
        workdirs.check(workdir, config, training=values.mode == "train")
    if values.topology:  # nothing here is to be looked for but the compiler
        os.environ |= dict(
            JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
        )
    # JAX and all: seconds that --help and wrong flags do not cost.
    from igerg_jax.cli import modes
    from igerg_jax.parallel import processes

    processes.start(config.distributed)
    modes.keep_compiled(config)
    try:
        if values.mode == "train":
            modes.train(config, workdir)
        elif values.mode == "evaluate":
            modes.evaluate(config, checkpoint or workdir, workdir)
        elif values.mode == "generate" and turns:
            modes.talk(config, checkpoint or workdir, *turns)
        elif values.mode == "generate":
            modes.answer_split(config, checkpoint or workdir, workdir)
        else:
            modes.compile_only(config, values.topology, values.slices, values.report, values.search)
    except OSError as error:
        if workdir is None or not workdirs.contains(workdir, error.filename):
            raise
        raise UserError(f"cannot write to '{error.filename}': {error.strerror}") from error


def check_start(config: ConfigDict, checkpoint: str | None) -> None:
    """Raises UserError where it is not clear which parameters training starts from."""
    if checkpoint:
        raise UserError("to train from a checkpoint, give --config.init_from, not --checkpoint")
    if config.name == "finetune" and not config.init_from:
        raise UserError(
            "fine-tuning starts from a checkpoint; add --config.init_from=WORKDIR, the folder of "
            "a pre-training run such as runs/pretrain-local"
        )


def pair(contexts: list[str], images: list[str]) -> tuple[list[tuple[str, str | None]], str | None]:
    """([(a turn's words, its image or None), ...], the answering turn's image or None).

    Raises:
      UserError: a turn without words, too many images, or a file that is not an image.
    """
    if not contexts or not all(words.strip() for words in contexts):
        raise UserError('the context is empty; give each turn\'s words: --context="…"')
    if len(images) > len(contexts) + 1:
        raise UserError(
            f"{len(images)} --image for {len(contexts)} --context: there may be one a turn, "
            "and one for the answer"
        )
    files = [file or None for file in images] + [None] * (len(contexts) + 1 - len(images))
    for file in filter(None, files):
        check_image(file)
    return list(zip(contexts, files[:-1], strict=True)), files[-1]


def check_image(file: str) -> None:
    """Raises UserError for what Pillow cannot read."""
    import PIL.Image

    try:
        with PIL.Image.open(file) as image:
            image.load()
    except FileNotFoundError as error:
        raise UserError(f"image '{file}' does not exist") from error
    except Exception as error:  # Pillow's plug-ins raise whatever they stumble over
        raise UserError(f"cannot read image '{file}': give a PNG or JPEG file") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv))
