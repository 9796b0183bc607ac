"""The command line of the modes: `python main.py --mode=MODE …` and `igerg MODE …`."""

import contextlib
import functools
import os
import pathlib
import sys
from typing import NamedTuple

from absl import flags
from etils import epath

from igerg_jax import environment, storage
from igerg_jax.batch import EMOTIONS
from igerg_jax.errors import RunError, UserError, check_text
from igerg_jax.run import command_line, workdirs


class Mode(NamedTuple):
    """A mode's flags, and the examples in its --help."""

    flags: tuple[str, ...]  # besides --config
    examples: tuple[str, ...]


MODES = {
    "train": Mode(
        ("workdir", "run"),
        (
            '--config=configs/pretrain.py                      # "local": minutes on a CPU',
            "--config=configs/pretrain.py:base --config.data.dataset=synthetic",
        ),
    ),
    "evaluate": Mode(("workdir", "run", "checkpoint"), ("--config=configs/pretrain.py",)),
    "generate": Mode(
        ("workdir", "run", "checkpoint", "context", "image", "emotion"),
        (
            '--config=configs/pretrain.py --image=face.png --context="Hi!"',
            '--checkpoint=small --image=face.png --context="Hi!"',
        ),
    ),
    "chat": Mode(("workdir", "run", "checkpoint"), ("--checkpoint=small",)),
    "compile": Mode(
        ("workdir", "run", "checkpoint", "topology", "slices", "report", "search"),
        ("--config=configs/pretrain.py:large --topology=v5e:16x16",),
    ),
}
HELP = """
--config=FILE[:PRESET] is one of configs/*.py, or a file of your own that starts from one of them;
--config.KEY=VALUE changes one of its keys. With --checkpoint, --config may be left out: it is then
the one that the checkpoint was trained with. The same command resumes a run that was stopped. Exit
codes: 0; 2 = a mistake in the command or its files, named in one message; 3 = compiled, but does
not fit the device; 1 = the run itself failed; 129, 130 and 143 = stopped by a closed terminal,
Ctrl-C or SIGTERM, the state saved (a second Ctrl-C ends at once, without saving). With several
processes: 4 = another one ended; 5 = not all connected in time; 6 = one does not respond, or no
step ends (train.stall_ends_run); 7 = the coordinator's port is in use.
"""
CONVERSATIONS = """
Conversations{}: give each turn as a --context, oldest first, and
each turn's face as an --image in the same order (--image= for a turn without one). One --image more
than there are turns is the face of the responder; --emotion=joy names the emotion to respond with,
whatever that face shows.
"""


def main(argv: list[str], mode: str = "", summary: str = "") -> int:
    """Runs a command line (the program's name first) and returns its exit code.

    Args:
      mode: the mode of `igerg MODE`, whose command line has no --mode; "" = --mode names it.
      summary: the first line of --help.
    """
    define = functools.partial(define_flags, mode=mode)
    text = help_of(mode, summary)
    return command_line.main(
        argv, text, define, lambda argv: run(parse(argv, mode)), exit_without_waiting
    )


def help_of(mode: str, summary: str) -> str:
    """The text that --help prints before the flags."""
    if mode:
        examples = [f"    igerg {mode} {example}" for example in MODES[mode].examples]
        conversations = CONVERSATIONS.format("") if mode == "generate" else ""
        return "\n".join([summary, "", *examples, HELP + conversations])
    examples = [
        f"    python main.py --mode={name} {example}"
        for name, given in MODES.items()
        for example in given.examples
    ]
    first = "Trains, evaluates, and talks with an emotion-aware vision-language model."
    conversations = CONVERSATIONS.format(", with --mode=generate")
    return "\n".join([first, "", *examples, HELP + conversations])


def exit_without_waiting(code: int) -> None:
    """Exits with `code` after a failure, without waiting for the run's other processes, which may
    be waiting for this one."""
    processes = sys.modules.get("igerg_jax.parallel.processes")
    if processes:  # not imported, and no run to leave, if the command line was wrong
        processes.abandon(code)


def define_flags(argv: list[str], mode: str = "") -> flags.FlagValues:
    """The flags of one command line; with a mode, only those that go with it."""
    values = command_line.new_flags(argv)
    text = functools.partial(flags.DEFINE_string, flag_values=values)
    texts = functools.partial(flags.DEFINE_multi_string, flag_values=values)
    flags.DEFINE_enum("mode", "train", list(MODES), "What to do.", flag_values=values)
    text(
        "workdir", None, "Folder for everything that a run writes. Default: runs/<config>-<preset>."
    )
    text("run", None, "Name of the run: short for --workdir=runs/NAME.")
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
    flags.DEFINE_integer("slices", 1, "Number of slices of that topology.", flag_values=values)
    text("report", None, "With --mode=compile: also write the report to this file, as JSON.")
    flags.DEFINE_boolean(
        "search",
        False,
        "With --mode=compile: find the largest batch that fits under each remat policy.",
        flag_values=values,
    )
    if mode:
        others = {name for other in MODES.values() for name in other.flags} | {"mode"}
        for name in others.difference(MODES[mode].flags):
            delattr(values, name)
    return values


def parse(argv: list[str], mode: str = "") -> flags.FlagValues:
    """Parses a command line, the config file and its overrides included.

    Args:
      mode: as for `main`.

    Raises:
      UserError: any of these is wrong.
    """
    if mode and command_line.argument(argv, "mode") is not None:
        raise UserError(f"{argv[0]} is a mode of its own: leave --mode out")
    argv = [argv[0], f"--mode={mode}", *argv[1:]] if mode else argv
    argv = command_line.with_recorded_config(command_line.with_flagfiles(argv))
    values = command_line.parse(argv, define_flags)
    check_flags_of_mode(values)
    if values.run is not None:
        if values.workdir is not None:
            raise UserError("--run and --workdir both name the run's folder: leave one out")
        values["workdir"].value = str(workdirs.named(values.run))
    if values.emotion and not values.context:
        raise UserError("--emotion needs a --context to respond to")
    if values.emotion and values.config.model.emotion_embedding == "none":
        raise UserError(
            "this model cannot be conditioned on an emotion (model.emotion_embedding='none'); "
            f"leave --emotion={values.emotion} out"
        )
    if values.slices < 1 or (values.slices > 1 and not values.topology):
        raise UserError(
            "--slices is the number of slices of --topology: at least 1, and only with --topology"
        )
    return values


def check_flags_of_mode(values: flags.FlagValues) -> None:
    """Raises UserError for a flag that only other modes have."""
    if values.mode == "train" and values.checkpoint:
        raise UserError("to train from a checkpoint, give --config.init_from, not --checkpoint")
    for name in values:
        modes = [mode for mode, given in MODES.items() if name in given.flags]
        if values[name].value == "" and name in ("workdir", "checkpoint", "report"):
            raise UserError(f"--{name}= names nothing: leave it out, or give it a value")
        if values[name].present and modes and values.mode not in modes:
            listed = " or ".join(f"--mode={mode} (igerg {mode})" for mode in modes)
            raise UserError(f"--{name} goes with {listed}")


def run(values: flags.FlagValues) -> None:
    """Runs the mode that parsed flags name. Raises UserError, RunError."""
    config, checkpoint, training = values.config, values.checkpoint, values.mode == "train"
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
    # Not at the top: they import JAX, seconds that --help and wrong flags need not wait for.
    with environment.interrupts_end():
        from igerg_jax.parallel import processes, stopping
        from igerg_jax.setup import enable_compilation_cache

    is_chat = values.mode == "chat"  # it handles Ctrl-C itself
    with contextlib.nullcontext() if is_chat else stopping.signals():
        processes.start(config.distributed)
        enable_compilation_cache(config)
        with processes.failures_explained(config.distributed.heartbeat_timeout_seconds):
            run_mode(values, workdir, conversation)


def run_mode(
    values: flags.FlagValues,
    workdir: epath.Path | None,
    conversation: tuple[list[tuple[str, str | None]], str | None] | None,
) -> None:
    """Runs `values.mode`, once the processes of the run are joined."""
    with environment.interrupts_end():
        from igerg_jax.cli import modes  # imports JAX

    config, path = values.config, values.checkpoint or workdir
    training = values.mode == "train"
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
    except (UserError, RunError):
        raise
    except Exception as error:
        file = getattr(error, "filename", None)
        # An open file that can no longer be written to is not named: metrics.jsonl, or TensorFlow's
        # of TensorBoard, whose error is no OSError.
        if training and file is None and storage.is_disk_full(error):
            message = f"{storage.full_disk(workdir)}; make room, then repeat the command"
            raise UserError(message) from error
        is_ours = workdir is not None and workdirs.contains(workdir, file)
        if not (is_ours and isinstance(error, OSError)):
            raise
        raise UserError(f"cannot write to '{file}': {error.strerror}") from error


def pair_turns(
    contexts: list[str], images: list[str]
) -> tuple[list[tuple[str, str | None]], str | None]:
    """([(a turn's words, its image or None), ...], the responding turn's image or None).

    Raises:
      UserError: a turn without words, too many images, or a file that is not an image.
    """
    from igerg_jax.data import image_gate  # it imports Pillow

    if not contexts or not all(words.strip() for words in contexts):
        raise UserError('the context is empty; give each turn\'s words: --context="…"')
    for words in contexts:
        check_text(words)
    if len(images) > len(contexts) + 1:
        raise UserError(
            f"{len(images)} --image for {len(contexts)} --context: there may be one per turn, "
            "and one for the response"
        )
    files = [file or None for file in images] + [None] * (len(contexts) + 1 - len(images))
    for file in filter(None, files):
        image_gate.file_as_jpeg(pathlib.Path(file))
    return list(zip(contexts, files[:-1], strict=True)), files[-1]
