"""Command lines with a config, as the modes and the tools parse them.

--config=FILE[:PRESET] is a config file; --config.KEY=VALUE changes one of its keys. A mistake ends
the program with one message on stderr and exit code 2. Imports nothing heavy.
"""

import contextlib
import difflib
import errno
import functools
import io
import itertools
import logging as python_logging
import os
import pathlib
import re
import sys
from collections.abc import Callable

from absl import flags, logging
from ml_collections import config_flags

from igerg_jax import storage
from igerg_jax.errors import OutOfMemory, RunError, UserError, check_all, check_text, nearest
from igerg_jax.run import config_files, config_keys, full_config, output
from igerg_jax.run.workdirs import flatten

# Flags whose values the record of a run, or of prepared data, has.
RECORDED = ("workdir", "run", "checkpoint", "data_dir", "manual_dir")
OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
RECORDED_CONFIG = pathlib.Path(__file__).with_name("recorded_config.py")
COLON_PATH = pathlib.Path(__file__).with_name("colon_path.py")
# Refusals of a file system, none of which a mistake in the code causes.
_REFUSALS = tuple(
    getattr(errno, name)
    for name in "EACCES EPERM EROFS ENOTDIR EISDIR ENAMETOOLONG ELOOP EIO ESTALE EMFILE".split()
)
_BUCKET_LIBRARIES = ("gcsfs", "aiohttp", "google")
MODULE_LINE = re.compile(r"^\S+:\n", re.MULTILINE)  # in absl's help: the file that defines flags


def main(
    argv: list[str],
    doc: str,
    define_flags: Callable[[list[str]], flags.FlagValues],
    run: Callable[[list[str]], None],
    on_failure: Callable[[int], None] = lambda code: None,
) -> int:
    """The main function of a program: prints its help or calls `run`; returns the exit code.

    Args:
      argv: the command line, the program's name first; passed to `define_flags` and `run`.
      doc: the text that --help prints before the flags.
      run: its UserError, OutOfMemory and RunError become one message; other exceptions are raised.
      on_failure: called with the exit code before a failure is returned or raised.
    """
    quieten()
    output.tolerate_encodings()
    try:
        if any(argument in ("--help", "-h", "--helpfull", "-help") for argument in argv[1:]):
            print(help_text(argv, doc, define_flags(argv)))
        else:
            check_home()
            run(argv)
        print(end="", flush=True)  # an error of stdout is found here, not at Python's exit
        return 0
    except UserError as error:
        for message in error.messages:  # one for each mistake in a config
            print(f"error: {output.on_one_line(message)}", file=sys.stderr)
        code = error.exit_code
    except (OutOfMemory, RunError) as error:
        for line in str(error).split("\n"):
            print(f"error: {line}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        if (lost := output.failure(error)) is not None:
            on_failure(lost)
            return lost
        if not (message := _outside_message(error)):
            on_failure(1)
            raise
        print(f"error: {output.on_one_line(message)}", file=sys.stderr)
        code = 2
    on_failure(code)
    return code


def help_text(argv: list[str], doc: str, values: flags.FlagValues) -> str:
    """`doc`, then the flags, then the config's keys if there is a flag --config."""
    listed = values.get_help().partition("\nabsl.flags:")[0] if list(values) else ""
    text = doc + MODULE_LINE.sub("", listed)
    if "config" not in values:
        return text
    chosen = argument(argv, "config") or config_files.DEFAULT
    keys = config_keys.listed(config_files.load(chosen))
    return f"{text}\n\nThe keys of {chosen} ('igerg config' explains them):\n\n{keys}"


def quieten() -> None:
    """Silences the logs of libraries on stderr; call it before TensorFlow or JAX is imported."""
    # Makes epath read gs:// with gcsfs, which is tested, without importing TensorFlow.
    os.environ.setdefault("EPATH_USE_TF", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow only decodes images here
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.set_verbosity(logging.ERROR)
    python_logging.getLogger("gcsfs").setLevel(python_logging.CRITICAL)  # it raises its errors too


def check_home() -> None:
    """Raises UserError if "~" has no folder: libraries would write to "./~"."""
    if os.path.expanduser("~") in ("~", "", "/") and not os.environ.get("HOME"):
        raise UserError(
            f"user {os.getuid()} has no home folder for caches and data: set HOME to a folder that "
            "can be written to"
        )


def _outside_message(error: BaseException) -> str:
    """What an exception says that a file system or a bucket caused; "" for any other."""
    if storage.is_disk_full(error):
        return _full_disk_message(error)
    if isinstance(error, OSError) and error.errno in _REFUSALS and error.filename is not None:
        return f"'{os.fsdecode(error.filename)}': {error.strerror}"
    if type(error).__module__.partition(".")[0] in _BUCKET_LIBRARIES:
        reason = " ".join(str(error).split())[:300]
        return (
            f"Google Cloud Storage: {reason}; check the bucket's name, the network and your "
            "credentials (gcloud auth application-default login)"
        )
    return ""


def _full_disk_message(error: BaseException | None) -> str:
    """The message about a full disk: that of a UserError among the causes, if there is one."""
    last = error
    while error is not None:
        if isinstance(error, UserError):
            return str(error)
        last, error = error, error.__cause__ or error.__context__
    file = getattr(last, "filename", None)
    what = storage.full_disk(file) if file else "a disk is full"
    return f"{what}; make room, then repeat the command"


def new_flags(argv: list[str]) -> flags.FlagValues:
    """New flags with --config, separate from absl's global flags so that calls do not interfere."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Config file, and a preset.", flag_values=values, sys_argv=argv
    )
    return values


def parse(
    argv: list[str], define_flags: Callable[[list[str]], flags.FlagValues]
) -> flags.FlagValues:
    """Parses a command line, and if there is a flag --config, the config and its overrides.

    Raises:
      UserError: the command line, the config or an override is wrong.
    """
    argv = with_config_path(with_flagfiles(argv))
    if "--" in argv:
        raise UserError("'--' ends the flags, and nothing comes after them here: leave it out")
    values = define_flags(argv)
    if "config" in values:
        check_config(argv)
    try:
        rest = values(argv)
    except flags.UnrecognizedFlagError as error:
        hint = suggestion(error.flagname, error.flagvalue.partition("=")[2], values, argv)
        raise UserError(f"unknown flag --{error.flagname}{hint}") from error
    except (flags.Error, ValueError) as error:  # a ValueError: --noFLAG=VALUE
        raise UserError(explain(str(error), argv)) from error
    if rest[1:]:
        name, _, value = rest[1].partition("=")
        hint = (
            suggestion(name, value, values, argv) if value else "; write --name=value (see --help)"
        )
        raise UserError(f"'{rest[1]}' is not a flag{hint}")
    if "config" in values and values.config is None:
        raise UserError(
            "--config was taken for the value of the flag before it: write --name=value"
        )
    check_texts(values)
    return values


def check_texts(values: flags.FlagValues) -> None:
    """Raises UserError, with a line for each, for names that a run could not record as text."""
    named = {f"--{flag}": values[flag].value for flag in RECORDED if flag in values}
    if "config" in values:
        named |= {f"--config.{key}": value for key, value in flatten(values.config).items()}
    texts = {name: value for name, value in named.items() if isinstance(value, str)}
    check_all(*(functools.partial(check_text, text, f"{name}=") for name, text in texts.items()))


def with_flagfiles(argv: list[str]) -> list[str]:
    """The command line with each --flagfile replaced by its content. Raises UserError."""
    said = io.StringIO()  # absl only warns of a file that includes itself, and leaves it out
    try:
        with contextlib.redirect_stderr(said):
            rest = flags.FlagValues().read_flags_from_files(argv[1:], force_gnu=False)
    except UnicodeDecodeError as error:
        raise UserError(f"--flagfile: the file is not UTF-8 text ({error})") from error
    except flags.Error as error:
        raise UserError(f"--flagfile: {error}") from error
    if said.getvalue():
        file = said.getvalue().rpartition(": ")[2].strip()
        raise UserError(f"--flagfile: '{file}' includes itself")
    return [argv[0], *rest]


def with_recorded_config(argv: list[str]) -> list[str]:
    """The command line, with the run's config as --config if it has only --checkpoint."""
    checkpoint = argument(argv, "checkpoint")
    if checkpoint is None or argument(argv, "config") is not None:
        return argv
    return [argv[0], f"--config={RECORDED_CONFIG}:{checkpoint}", *argv[1:]]


def with_config_path(argv: list[str]) -> list[str]:
    """The command line, with the path of an existing file in its --config, and a preset, if only
    an empty one: `config_files.load` also gives get_config one.

    Raises:
      UserError: there is no such config file.
    """
    found, rest = [argv[0]], iter(argv[1:])
    for text in rest:
        if re.fullmatch("--?config(=.*)?", text, re.DOTALL):
            _, equals, value = text.partition("=")
            file, preset = config_files.find(value if equals else next(rest, ""))
            colon_path = f"{COLON_PATH}:" if ":" in file else ""
            text = f"--config={colon_path}{file}:{preset}"
        found.append(text)
    return found


def suggestion(name: str, value: str, values: flags.FlagValues, argv: list[str]) -> str:
    """The end of a message about an unknown flag: similar flags or config keys, if any."""
    name = name.replace("-", "_")
    similar = difflib.get_close_matches(name, [flag for flag in values if "." not in flag])
    if not similar and "config" in values:
        keys = list(flatten(config_files.load(config_argument(argv))))
        similar = [f"config.{key}" for key in config_keys.similar_keys(name, keys)]
    equals = f"={value}" if value else ""
    listed = " or ".join(f"--{flag}{equals}" for flag in similar)
    return f"; did you mean {listed}?" if listed else " (see --help)"


def require(values: flags.FlagValues, *names: str) -> None:
    """Raises UserError for the first of the flags `names` that has no value."""
    for name in names:
        if not values[name].value:
            raise UserError(f"--{name} is missing (see --help)")


def new_file(flag: str, text: str) -> pathlib.Path:
    """The path in a flag, of a file that the caller will write; call it before what takes long.

    Raises:
      UserError: its folder does not exist, or no file can be written there.
    """
    path = storage.local_path(text)
    if not path.parent.is_dir():
        raise UserError(f"--{flag}={text}: there is no folder '{path.parent}'")
    is_other = path.exists() and not path.is_file()  # a folder, or a pipe, which nobody may read
    if is_other or not all(os.access(p, os.W_OK) for p in (path, path.parent) if p.exists()):
        raise UserError(f"--{flag}={text} is not a file that you may write")
    return path


def new_folder(out: str) -> pathlib.Path:
    """The absolute path of --out, a folder that the caller will create.

    Raises:
      UserError: it is a file or not empty, or no folder can be created there.
    """
    if "://" in out:
        raise UserError(
            f"--out={out} is not a local folder: write to a local one, then copy it there"
        )
    folder = storage.local_path(out).resolve()
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if above == folder and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out={out} is a file, or a folder that is not empty; name a new folder")
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--out={out} cannot be created: you may not write to '{above}'")
    return folder


def check_config(argv: list[str]) -> None:
    """Raises UserError, with a line for each unknown, missing or mistyped key of the config file,
    and for each override of an unknown key; or if there is no such file or preset."""
    source = config_argument(argv)
    config = config_files.load(source)
    file, preset = config_files.find(source)
    if pathlib.Path(file) == COLON_PATH:
        file, _ = config_files.find(preset)
    matches = filter(None, map(OVERRIDE.match, argv[1:]))
    checks = [
        functools.partial(_check_override, match[1], list(flatten(config))) for match in matches
    ]
    # A recorded config has the keys of the version that recorded it.
    if pathlib.Path(file) != RECORDED_CONFIG:
        full = config_files.load_full()
        checks.append(functools.partial(full_config.check, config, full, file))
    check_all(*checks)


def _check_override(name: str, keys: list[str]) -> None:
    if name in keys:
        return
    inside = [key for key in keys if key.startswith(f"{name}.")]
    if inside:
        raise UserError(f"'config.{name}' is a group of keys: {', '.join(inside)}")
    close = ", ".join(nearest(name, keys))
    raise UserError(f"unknown config key '{name}'; the nearest are: {close}")


def config_argument(argv: list[str]) -> str:
    """The value of --config. Raises UserError if there is none."""
    value = argument(argv, "config")
    if value is None:
        raise UserError("--config is missing; for a start: --config=configs/pretrain.py")
    return value


def argument(argv: list[str], flag: str) -> str | None:
    """The value of a flag on a command line that is not parsed yet; None if it is absent.

    Of several, the last, which is the one that parsing keeps.
    """
    found = None
    for text, following in itertools.pairwise([*argv[1:], ""]):
        if re.fullmatch(f"--?{flag}(=.*)?", text, re.DOTALL):
            _, equals, value = text.partition("=")
            found = value if equals else following
    return found


def explain(message: str, argv: list[str]) -> str:
    """absl's message, or for a wrong value of a config key, one that names the key's type."""
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", message, re.DOTALL)
    if not match:
        return f"{message} (see --help)"
    default = flatten(config_files.load(config_argument(argv)))[match[1]]
    kind = type(default).__name__
    return f"--config.{match[1]} takes {kind} values such as {default!r}, not '{match[2]}'"
