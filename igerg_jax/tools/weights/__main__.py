"""Pre-trained weights in, and a run's weights out: to a folder, or to the Hugging Face hub.

    igerg weights import --config=configs/pretrain.py:paper \\
        --text=DIR --vision=DIR --out=DIR
    igerg weights export --format=hf --checkpoint=RUN --out=DIR
    igerg weights export --format=safetensors --checkpoint=RUN --out=DIR [--parts=vision_tower]
    igerg weights push --checkpoint=RUN --repo=USER/NAME [--private] --upload
    igerg weights pull --repo=USER/NAME --out=DIR

import: --text is a folder of BART, --vision one of ViT, SigLIP or ResNet-50 (docs/weights.md lists
others); both must be on this machine, since nothing is downloaded. Training then starts with
--config.init_from=DIR. export: --checkpoint is a workdir or one of its checkpoints. push: makes a
weights folder with a model card, and says what it would upload; with --upload, it does. pull:
downloads such a folder, which --checkpoint takes. Exit codes: 0; 2 = a mistake in the command or
its files, named in one message.
"""

import functools
import importlib

from absl import flags

from igerg_jax import environment
from igerg_jax.errors import UserError
from igerg_jax.run import command_line

# --format -> (a module with `export(checkpoint, out) -> a description`, what it writes)
FORMATS = {
    "hf": ("igerg_jax.tools.weights.exporting", "folders that transformers loads"),
    "safetensors": ("igerg_jax.tools.weights.sharing", "a folder for --checkpoint"),
    "stablehlo": ("igerg_jax.tools.weights.stablehlo", "programs that need only JAX to run"),
}
# options of export -> the format that they go with
OPTIONS = {"greedy": "stablehlo", "parts": "safetensors"}


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    define_flags = FLAGS.get("".join(argv[1:2]), _import_flags)
    return command_line.main(argv, __doc__, define_flags, run)


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    command, rest = argv[1:2], [argv[0], *argv[2:]]
    if command == ["import"]:
        values = command_line.parse(rest, _import_flags)
        command_line.require(values, "out")
        # Not at the top: it imports JAX, as the modules of FORMATS do; --help need not wait for it.
        from igerg_jax.tools.weights import importing

        parts = values.text, values.vision
        print(importing.run(values.config, *parts, values.out, values.resize_vocabulary))
    elif command == ["export"]:
        values = command_line.parse(rest, _export_flags)
        command_line.require(values, "checkpoint", "out")
        options = {name: values[name].value for name in OPTIONS if values[name].value}
        for name in options:
            if values.format != OPTIONS[name]:
                raise UserError(f"--{name} goes with --format={OPTIONS[name]}")
        module = importlib.import_module(FORMATS[values.format][0])
        print(module.export(values.checkpoint, values.out, **options))
    elif command in (["push"], ["pull"]):
        _with_hub(command[0], command_line.parse(rest, FLAGS[command[0]]))
    else:
        raise UserError("name a command: import, export, push or pull (see --help)")


def _with_hub(command: str, values: flags.FlagValues) -> None:
    from igerg_jax.tools.weights import hub

    if command == "push":
        command_line.require(values, "checkpoint", "repo")
        options = values.revision, values.private, values.upload
        print(hub.push(values.checkpoint, values.repo, *options))
    else:
        command_line.require(values, "repo", "out")
        print(hub.pull(values.repo, values.revision, values.out))


def _import_flags(argv: list[str]) -> flags.FlagValues:
    values = command_line.new_flags(argv)
    define = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    define("text", help="Folder or file of the text model.")
    define("vision", help="Folder or file of the vision tower.")
    define("out", help="Folder of the checkpoint to write.")
    help_text = "Cut or lengthen the token embedding to config.data.tokenizer.vocab_size."
    flags.DEFINE_boolean("resize_vocabulary", False, help_text, flag_values=values)
    return values


def _export_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    kinds = "; ".join(f"{name}: {what}" for name, (_, what) in FORMATS.items())
    flags.DEFINE_enum("format", "hf", list(FORMATS), f"{kinds}.", flag_values=values)
    define = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    define("checkpoint", help="A workdir, or one of its checkpoints.")
    define("out", help="Folder to write.")
    help_text = "stablehlo: generate greedily, not as the run's config.generate says."
    flags.DEFINE_boolean("greedy", False, help_text, flag_values=values)
    help_text = "safetensors: only these parts of the model, as vision_tower."
    flags.DEFINE_list("parts", [], help_text, flag_values=values)
    return values


def _pull_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    define("repo", help="The repository, as USER/NAME.")
    define("revision", help="A branch, a tag or a commit. Default: main.")
    define("out", help="Folder to write.")
    return values


def _push_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    define("checkpoint", help="A workdir, one of its checkpoints, or a weights folder.")
    define("repo", help="The repository, as USER/NAME.")
    define("revision", help="The branch to commit to. Default: main.")
    define_switch = functools.partial(flags.DEFINE_boolean, default=False, flag_values=values)
    define_switch("private", help="Make a new repository private.")
    define_switch("upload", help="Upload; otherwise it is only said what would be.")
    return values


FLAGS = {
    "import": _import_flags,
    "export": _export_flags,
    "push": _push_flags,
    "pull": _pull_flags,
}

if __name__ == "__main__":
    environment.run(main)
