"""What a benchmark measured, for the table of `benchmarks.all`: rows, as a line of JSON."""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping

MARK = '{"rows": '


@dataclasses.dataclass(frozen=True)
class Row:
    """A measurement: processor seconds, and the least work that any program must do for it."""

    what: str
    ours: float = math.nan
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)  # {library: seconds}
    flop: float = 0.0  # of its products
    memory_bytes: float = 0.0  # read from memory or written to it
    least: float = 0.0  # seconds of a part that none can leave out, measured
    least_is: str = ""  # that part
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a core can do, in a second of processor time; 0 = not measured."""

    flop: float = 0.0
    memory_bytes: float = 0.0

    @classmethod
    def of(cls, rows: list[Row]) -> "Limits":
        """The best of what `benchmarks.limits` measured, in any of its rows."""
        return cls(
            max((row.flop / row.ours for row in rows), default=0.0),
            max((row.memory_bytes / row.ours for row in rows), default=0.0),
        )

    def __str__(self) -> str:
        rates = [f"{self.flop / 1e9:.0f} GFLOP/s"] if self.flop else []
        rates += [f"{self.memory_bytes / 1e9:.1f} GB/s"] if self.memory_bytes else []
        return " and ".join(rates) or "not measured"

    def of_row(self, row: Row) -> tuple[float, str]:
        """(seconds that the row cannot fall below, what sets them); (0, "") where none is known."""
        bounds = [(row.least, row.least_is)]
        if self.flop:
            bounds.append((row.flop / self.flop, "products"))
        if self.memory_bytes:
            bounds.append((row.memory_bytes / self.memory_bytes, "memory"))
        return max(bounds)


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="also print a line for benchmarks.all")


def write(rows: list[Row], options: argparse.Namespace) -> None:
    """Prints the rows as one line of JSON, if `--json` asks for it."""
    if options.json:
        print(MARK + json.dumps([dataclasses.asdict(row) for row in rows]) + "}", flush=True)


def read(output: str) -> list[Row]:
    """The rows that a process printed last.

    Raises:
      ValueError: it printed none.
    """
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if not lines:
        raise ValueError("it printed no rows")
    return [Row(**fields) for fields in json.loads(lines[-1])["rows"]]
