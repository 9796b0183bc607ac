"""Writes comparisons to files, or prints them."""

import pathlib
from collections.abc import Callable, Sequence

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.tools.compare import page, rows, table, text

PRINT = "-"  # in place of a file


def compare(runs: Sequence[str], folder: pathlib.Path) -> pathlib.Path:
    """Writes compare.html, .md and .csv of some runs to a folder; returns the page's path.

    Raises:
      UserError: as for `rows.read` and `put`.
    """
    comparison, path = table.build(rows.read(runs), None), folder / "compare.html"
    put(str(path), lambda at: page.render(comparison, page.CURVES, at))
    put(str(folder / "compare.md"), lambda _: text.markdown(comparison))
    put(str(folder / "compare.csv"), lambda _: text.comma_separated(comparison))
    return path


def put(out: str, render: Callable[[pathlib.Path], str]) -> None:
    """Writes the text that `render` returns for the file's folder; prints it if `out` is `PRINT`.

    Args:
      out: "" = does nothing.

    Raises:
      UserError: the file cannot be written.
    """
    if out == PRINT:
        print(render(pathlib.Path()), end="")
    elif out:
        path = storage.local_path(out)
        if not path.parent.is_dir():
            raise UserError(f"cannot write '{path}': there is no folder '{path.parent}'")
        try:
            storage.write_text(path, render(path.parent))
        except OSError as error:
            raise UserError(f"cannot write '{path}': {error.strerror}") from error
