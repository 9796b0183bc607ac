"""Where a comparison is written to."""

import pathlib
from collections.abc import Callable, Sequence

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.tools.compare import page, rows, table, text

PRINT = "-"  # in place of a file


def compare(runs: Sequence[str], folder: pathlib.Path) -> pathlib.Path:
    """Writes compare.html, compare.md and compare.csv of some runs to a folder; returns the page.

    Raises:
      UserError: as `rows.read` and `put`.
    """
    found, path = table.build(rows.read(runs), None), folder / "compare.html"
    put(str(path), lambda at: page.render(found, page.CURVES, at))
    put(str(folder / "compare.md"), lambda _: text.markdown(found))
    put(str(folder / "compare.csv"), lambda _: text.comma_separated(found))
    return path


def put(out: str, made: Callable[[pathlib.Path], str]) -> None:
    """Writes to a file what `made` makes for its folder, or prints it; "" = neither.

    Raises:
      UserError: the file cannot be written.
    """
    if out == PRINT:
        print(made(pathlib.Path()), end="")
    elif out:
        path = pathlib.Path(out).expanduser()
        if not path.parent.is_dir():
            raise UserError(f"cannot write '{path}': there is no folder '{path.parent}'")
        try:
            storage.write_text(path, made(path.parent))
        except OSError as error:
            raise UserError(f"cannot write '{path}': {error.strerror}") from error
