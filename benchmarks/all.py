"""Runs the benchmarks one after another, and prints their table in Markdown.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.all [--quick] [--manual_dir=DIR]
        [--only=limits,train_cpu,generate_cpu] [--minutes=60] > table.md

Each is a process of its own, and its sides take turns in it. With --quick they have fewer rounds or
smaller sizes, as the commands in the table say: sized for ten minutes on two idle cores.
What is missing for a benchmark stands in its row, and so does what a benchmark failed with; the
exit code is 1 then. DIR has the files of MELD, DailyDialog and FER2013, as docs/data.md says.

`limits` runs first and last, and the best of both counts. The limit of a row is the longest of its
products at the core's best rate, the least that it must read from memory and write to it at the
core's best rate, and a measured part that no program can do without. The share is the limit
divided by the measured time.
"""

import argparse
import dataclasses
import importlib.util
import math
import os
import pathlib
import shlex
import subprocess
import sys
from importlib import metadata

from benchmarks import rows
from benchmarks.rows import Limits, Row
from igerg_jax.run.provenance import cpu_model

HEAD = (
    "| what | ms of processor time | against | limit, and share reached | command |",
    "|---|---|---|---|---|",
)
PACKAGES = ("jax", "torch", "transformers", "grain", "opencv-python-headless")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A module of this folder, what it needs, and how --quick runs it."""

    name: str
    what: str
    quick: str | None  # arguments; None = not part of --quick
    modules: tuple[str, ...] = ()  # besides those of requirements.txt
    needs_files: bool = False
    needs_gpu: bool = False
    arguments: str = ""  # at the documented size

    def command(self, options: argparse.Namespace) -> list[str]:
        arguments = shlex.split(self.quick or "" if options.quick else self.arguments)
        if self.needs_files:
            arguments.append(f"--manual_dir={options.manual_dir or 'DIR'}")
        return ["-m", f"benchmarks.{self.name}", *arguments]

    def missing(self, options: argparse.Namespace) -> list[str]:
        """What would have to be there."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if self.needs_files and not options.manual_dir:
            absent.append("files (--manual_dir)")
        if self.needs_gpu and not pathlib.Path("/dev/nvidiactl").exists():
            absent.append("a GPU")
        return absent


TORCH = ("torch", "transformers")
LIMITS = Benchmark("limits", "what the core can do", "--rounds=3")
BENCHMARKS = (
    Benchmark("train_cpu", "training step", "--rounds=2 --examples=4 --layers=2", TORCH),
    Benchmark("generate_cpu", "generation", "--rounds=2 --rows=8", TORCH),
    Benchmark("train_gpu", "training step on a GPU", "--presets=base", TORCH, needs_gpu=True),
    Benchmark("default_step", "the default run's step", "--rounds=3", ("torch",)),
    Benchmark("objective_cost", "what objectives cost", "--rounds=0"),
    Benchmark("growth", "growth of a step", "--rounds=2 --only=examples"),
    Benchmark("growth", "growth over devices", None, ("libtpu",), arguments="--only=devices"),
    Benchmark("arithmetic", "products, GELU, layer norm, convolutions", "--rounds=3"),
    Benchmark("length_buckets", "batches by length", "--rounds=0", needs_files=True),
    Benchmark("input_pipeline", "images", "--rounds=1 --seconds=2 --stills=150"),
    Benchmark("read_prepared", "reading prepared data", "--batches=50", needs_files=True),
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a benchmark: its rows, or why there are none."""

    what: str
    command: str
    rows: tuple[Row, ...] = ()
    missing: str = ""
    failure: str = ""


def run(benchmark: Benchmark, options: argparse.Namespace) -> Outcome:
    """Runs a benchmark, unless something is missing; whatever happens is an outcome."""
    command = benchmark.command(options)
    outcome = Outcome(benchmark.what, shlex.join(command).removeprefix("-m benchmarks."))
    if options.quick and benchmark.quick is None:
        return dataclasses.replace(outcome, missing="not part of --quick: it takes too long")
    if absent := benchmark.missing(options):
        return dataclasses.replace(outcome, missing=f"missing: {', '.join(absent)}")
    print(f"{outcome.command} …", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            [sys.executable, *command, "--json"],
            capture_output=True,
            text=True,
            timeout=60 * options.minutes,
            check=True,
        )
        return dataclasses.replace(outcome, rows=tuple(rows.read(done.stdout)))
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no message").splitlines()[-1]
        failure = f"failed with exit code {error.returncode}: {last}"
    except subprocess.TimeoutExpired:
        failure = f"stopped after {options.minutes:g} minutes"
    except (ValueError, TypeError, KeyError) as error:
        failure = f"failed: {error}"
    return dataclasses.replace(outcome, failure=failure)


def line(*cells: str) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def table(outcomes: list[Outcome], limits: Limits) -> list[str]:
    """Markdown: a line for each row, and for each benchmark that has none."""
    lines = list(HEAD)
    for outcome in outcomes:
        command = f"`{outcome.command}`"
        if not outcome.rows:
            lines.append(line(outcome.what, "", outcome.failure or outcome.missing, "", command))
        lines += [line(*cells(row, limits), command) for row in outcome.rows]
    return lines


def cells(row: Row, limits: Limits) -> tuple[str, str, str, str]:
    """(what, time, against what, limit and share) of a row."""
    against = [
        f"{seconds / row.ours:.2f} times as fast as {name} ({milliseconds(seconds)})"
        for name, seconds in row.others.items()
        if math.isfinite(seconds / row.ours)
    ]
    least, what = limits.of_row(row)
    share = f", {least / row.ours:.0%}" if math.isfinite(row.ours) else ""
    limit = f"{what}: {milliseconds(least)}{share}" if least else "not measured"
    time = milliseconds(row.ours) if math.isfinite(row.ours) else "not measured"
    return row.what, time, "; ".join([*against, *([row.note] if row.note else [])]), limit


def milliseconds(seconds: float) -> str:
    """With three digits."""
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    """The processor, its cores, and what is installed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return f"{cpu_model()}, {cores} cores; {', '.join(versions)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes")
    parser.add_argument("--manual_dir", default="", help="of the files that some need")
    names = list(dict.fromkeys(each.name for each in (LIMITS, *BENCHMARKS)))
    parser.add_argument("--only", default=",".join(names), help="some of the default's")
    parser.add_argument("--minutes", type=float, default=60, help="that each may take")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"--only: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    first = [run(LIMITS, options)] if LIMITS.name in chosen else []
    outcomes = [run(each, options) for each in BENCHMARKS if each.name in chosen]
    last = [run(LIMITS, options)] if first and outcomes else []
    limits = Limits.of([row for outcome in first + last for row in outcome.rows])
    size = "`--quick`: fewer rounds or smaller sizes than documented" if options.quick else "full"
    print(f"Sizes: {size}. Machine: {machine()}. Limits of a core: {limits}.\n")
    print("\n".join(table(first + outcomes, limits)))
    return int(any(outcome.failure for outcome in first + outcomes + last))


if __name__ == "__main__":
    sys.exit(main())
