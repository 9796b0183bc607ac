"""The examples of CONTRIBUTING.md, so that tests do what it shows."""

import pathlib
import re

from igerg_jax import metrics

_TEXT = (pathlib.Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def _section(heading: str) -> str:
    return _TEXT.partition(f"\n## Adding {heading}\n")[2].partition("\n## ")[0]


def examples(heading: str) -> list[str]:
    """The blocks of Python code in the section "## Adding <heading>", in order."""
    return re.findall(r"```python\n(.*?)```", _section(heading), re.DOTALL)


def indented(heading: str) -> list[str]:
    """The lines outside those blocks that stand indented: rows of tables."""
    prose = re.sub(r"```python\n.*?```", "", _section(heading), flags=re.DOTALL)
    return re.findall(r"^    \S.*\n", prose, re.MULTILINE)


def metric_rows() -> list[metrics.Metric]:
    """The rows of the section "Adding a metric", in order."""
    names = dict(vars(metrics))
    for code in examples("a metric"):
        exec(code, names)
    return [eval(row.strip().removesuffix(","), names) for row in indented("a metric")]
