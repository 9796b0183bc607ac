"""Config files: how --config=FILE[:PRESET] is found and loaded.

FILE is a path; if there is no such file, configs/… is one of those that come with igerg_jax. Your
own config files can be anywhere, and start from one of these with `from configs import pretrain`.
Imports nothing heavy.
"""

import importlib.machinery
import importlib.util
import os
import pathlib
import re
import sys
import traceback

from ml_collections import ConfigDict, FrozenConfigDict

from igerg_jax.errors import UserError, nearest

_PACKAGE = pathlib.Path(__file__).parent.parent
# In a wheel, configs/ is inside the package; in the repository, beside it.
PACKAGED = next(
    folder
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    if (folder / "pretrain.py").is_file()
)
DEFAULT = "configs/pretrain.py"


def find(argument: str) -> tuple[str, str]:
    """(path of an existing config file, preset) of FILE[:PRESET]; the preset may be "".

    FILE ends at the first ".py" that makes it the name of a file: folders and presets may have a
    ":" too. Raises UserError if there is none.
    """
    ends = [match.end() for match in re.finditer(r"\.py(?=:|\Z)", argument)]
    files = [argument[:end] for end in ends] or [argument.partition(":")[0]]
    for file in files:
        path = _theirs_or_ours(file)
        if path.is_file() and path.suffix == ".py":
            return str(path), argument[len(file) + 1 :]
    configs = [p for p in PACKAGED.rglob("*.py") if "def get_config" in p.read_text("utf-8")]
    known = [p.relative_to(PACKAGED.parent).as_posix() for p in configs]
    close = ", ".join(nearest(files[0], sorted(known)))
    is_there = files[0] and _theirs_or_ours(files[0]).exists()
    problem = "is no Python file" if is_there else "does not exist"
    raise UserError(f"config file '{files[0]}' {problem}; did you mean one of {close}?")


def _theirs_or_ours(file: str) -> pathlib.Path:
    path = pathlib.Path(file)
    is_ours = not path.exists() and path.parts[:1] == ("configs",)
    return PACKAGED.parent / file if is_ours else path


def load(argument: str) -> ConfigDict:
    """The config that the config file FILE[:PRESET] returns.

    Raises:
      UserError: no such file or preset, or the file fails or returns something else.
    """
    file, preset = find(argument)
    enable_configs_import(pathlib.Path(file))
    spec = importlib.util.spec_from_file_location("config_file", file)
    assert spec is not None and spec.loader is not None  # a .py file has them
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{file} lacks the function get_config, which returns the config")
        config = module.get_config(preset)
    except UserError:
        raise
    except ValueError as error:  # such as an unknown preset: its message is for users
        raise UserError(f"{file}: {error}") from error
    except (Exception, SystemExit) as error:
        reason = getattr(error, "msg", None) or error
        where = f"{file}{_line_of(error, file)}"
        raise UserError(f"{where}: {type(error).__name__}: {reason}") from error
    # A frozen one is a ConfigDict, but takes no overrides.
    if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
        kind = type(config).__name__
        raise UserError(f"{file}: get_config returns {kind}, not an ml_collections.ConfigDict")
    return config


def load_full() -> ConfigDict:
    """The config of configs/pretrain.py, which sets every key."""
    return load(str(PACKAGED / "pretrain.py"))


def _line_of(error: BaseException, file: str) -> str:
    """For a message: the line of a config file that raised an exception; "" if none did."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}" if error.lineno else ""  # none: it is no text
    stack = traceback.extract_tb(error.__traceback__)
    lines = [at.lineno for at in stack if os.path.abspath(at.filename) == os.path.abspath(file)]
    return f", line {lines[-1]}" if lines else ""


def enable_configs_import(file: pathlib.Path) -> None:
    """Makes `from configs import NAME` work in a config file, wherever it is.

    NAME is looked up in the folder `configs` around the file, if any, then in that of igerg_jax.
    """
    around = [folder for folder in file.resolve().parents if folder.name == "configs"][:1]
    spec = importlib.machinery.ModuleSpec("configs", None, is_package=True)
    package = sys.modules.setdefault("configs", importlib.util.module_from_spec(spec))
    package.__path__ = list(dict.fromkeys(map(str, [*around, PACKAGED])))
