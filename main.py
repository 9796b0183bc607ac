"""Trains, evaluates, and talks with an emotion-aware vision-language model.

    python main.py --config=configs/pretrain.py                      # "local": minutes on a CPU
    python main.py --config=configs/pretrain.py:base --config.data.dataset=synthetic
    python main.py --config=configs/pretrain.py --mode=evaluate
    python main.py --config=configs/pretrain.py --mode=generate --image=face.png --context="Hi!"
    python main.py --checkpoint=small --mode=generate --image=face.png --context="Hi!"
    python main.py --checkpoint=small --mode=chat

--config=FILE[:PRESET] is one of configs/*.py; --config.KEY=VALUE changes one of its keys. With
--checkpoint, --config may be left out: it is then the one that the checkpoint was trained with. The
same command resumes a run that was stopped. Exit codes: 0; 2 = a mistake in the command or its
files, named in one message; 3 = compiled, but does not fit the device; 1 = the run itself failed;
130 and 143 = stopped by Ctrl-C or SIGTERM, the state saved.

Conversations, with --mode=generate: give each turn as a --context, oldest first, and each turn's
face as an --image in the same order (--image= for a turn without one). One --image more than there
are turns is the face of the responder; --emotion=joy names the emotion to respond with,
whatever that face shows.
"""

import functools
import os
import pathlib
import sys

from absl import flags

from igerg_jax import storage
from igerg_jax.batch import EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.run import command_line, workdirs

MODES = ("train", "evaluate", "generate", "chat", "compile")
RECORDED_CONFIG = pathlib.Path(command_line.__file__).with_name("recorded_config.py")


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    return command_line.main(
        argv, __doc__, define_flags, lambda argv: run(parse(argv)), exit_without_waiting
    )


def exit_without_waiting(code: int) -> None:
    """After a failure in a run of several processes: exits with `code`, without waiting for the
    others, which may be waiting for this one."""
    processes = sys.modules.get("igerg_jax.parallel.processes")
    if processes:  # not imported, and nothing to leave, where the command line was wrong
        processes.abandon(code)


def define_flags(argv: list[str]) -> flags.FlagValues:
    """The flags of one command line."""
    values = command_line.new_flags(argv)
    text = functools.partial(flags.DEFINE_string, flag_values=values)
    texts = functools.partial(flags.DEFINE_multi_string, flag_values=values)
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    text(
        "workdir",
        None,
        "Folder of the run: checkpoints, metrics, report. Default: runs/<config>-<preset>.",
    )
    text(
        "checkpoint",
        None,
        "To evaluate, generate or chat with: a workdir, one of its checkpoints, a weights folder, "
        "or the name of a model that comes with igerg_jax, such as small. Default: --workdir. "
        "With --checkpoint and no --workdir, results are printed and nothing is written.",
    )
    texts("context", [], "A turn's words; repeat it, oldest first.")
    texts("image", [], "A turn's image file; repeat it, in the turns' order.")
    flags.DEFINE_enum(
        "emotion",
        None,
        EMOTIONS,
        "The emotion to respond with. Default: the one seen in the response's image.",
        flag_values=values,
    )
    text(
        "topology",
        "",
        "With --mode=compile: a TPU topology to compile for, such as v5e:16x16. Default: this "
        "machine's devices.",
    )
    flags.DEFINE_integer("slices", 1, "How many such topologies.", flag_values=values)
    text("report", None, "With --mode=compile: also write the report to this file, as JSON.")
    flags.DEFINE_boolean(
        "search",
        False,
        "With --mode=compile: find the largest batch that fits under each remat policy.",
        flag_values=values,
    )
    return values


def parse(argv: list[str]) -> flags.FlagValues:
    """Parses a command line, the config file and its overrides included.

    Raises:
      UserError: whatever is wrong with them.
    """
    values = command_line.parse(with_recorded_config(argv), define_flags)
    if values.mode != "generate" and (values.context or values.image):
        raise UserError("--context and --image go with --mode=generate")
    if values.emotion and not (values.mode == "generate" and values.context):
        raise UserError("--emotion goes with --mode=generate and a --context to respond to")
    if values.emotion and values.config.model.emotion_embedding == "none":
        raise UserError(
            "this model cannot be conditioned on an emotion (model.emotion_embedding='none'); "
            f"leave --emotion={values.emotion} out"
        )
    compiling = values.topology or values.report or values.search or values.slices != 1
    if values.mode != "compile" and compiling:
        raise UserError("--topology, --slices, --search and --report go with --mode=compile")
    if values.slices < 1 or (values.slices > 1 and not values.topology):
        raise UserError("--slices, at least 1, goes with --topology: how many of that topology")
    return values


def with_recorded_config(argv: list[str]) -> list[str]:
    """The command line; where it has a --checkpoint and no --config, with that of its run."""
    checkpoint = command_line.argument(argv, "checkpoint")
    if checkpoint is None or command_line.argument(argv, "config") is not None:
        return argv
    return [argv[0], f"--config={RECORDED_CONFIG}:{checkpoint}", *argv[1:]]


def run(values: flags.FlagValues) -> None:
    """Does what parsed flags ask for. Raises UserError, RunError."""
    config, checkpoint, training = values.config, values.checkpoint, values.mode == "train"
    if training and checkpoint:
        raise UserError("to train from a checkpoint, give --config.init_from, not --checkpoint")
    workdir = storage.parse_path(values.workdir) if values.workdir else None
    if workdir is None and (training or not checkpoint):
        workdir = workdirs.default(config)
    conversation = None
    if values.context or values.image:
        conversation = pair_turns(values.context, values.image)
    if workdir is not None and values.mode != "compile" and conversation is None:
        workdirs.check(workdir, config, training)
    if values.topology:  # compile on the CPU: do not look for TPUs, or for their metadata server
        os.environ |= dict(
            JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
        )
    # These import JAX: seconds that --help and wrong flags do not cost.
    from igerg_jax.cli import modes
    from igerg_jax.parallel import processes
    from igerg_jax.setup import enable_compilation_cache

    processes.start(config.distributed)
    enable_compilation_cache(config)
    path = checkpoint or workdir
    try:
        if training:
            modes.train(config, workdir)
        elif values.mode == "evaluate":
            modes.evaluate(config, path, workdir)
        elif values.mode == "generate" and conversation:
            modes.generate_once(config, path, *conversation, values.emotion)
        elif values.mode == "generate":
            modes.generate_samples(config, path, workdir)
        elif values.mode == "chat":
            modes.chat(config, path)
        else:
            modes.compile_step(config, values.topology, values.slices, values.report, values.search)
    except OSError as error:
        if workdir is None or not workdirs.contains(workdir, error.filename):
            raise
        raise UserError(f"cannot write to '{error.filename}': {error.strerror}") from error


def pair_turns(
    contexts: list[str], images: list[str]
) -> tuple[list[tuple[str, str | None]], str | None]:
    """([(a turn's words, its image or None), ...], the responding turn's image or None).

    Raises:
      UserError: a turn without words, too many images, or a file that is not an image.
    """
    if not contexts or not all(words.strip() for words in contexts):
        raise UserError('the context is empty; give each turn\'s words: --context="…"')
    if len(images) > len(contexts) + 1:
        raise UserError(
            f"{len(images)} --image for {len(contexts)} --context: there may be one per turn, "
            "and one for the response"
        )
    files = [file or None for file in images] + [None] * (len(contexts) + 1 - len(images))
    for file in filter(None, files):
        check_image(file)
    return list(zip(contexts, files[:-1], strict=True)), files[-1]


def check_image(file: str) -> None:
    """Raises UserError for a file that holds no image."""
    from igerg_jax.data import image_gate

    image_gate.file_as_jpeg(pathlib.Path(file))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
