"""The record of a run over all its starts: <workdir>/history.json, one entry per start.

    started, ended          ISO 8601, UTC; ended is null while it runs
    stopped                 why: "finished", a signal, an error, or "killed" (it ended without a
                            record)
    first_step, last_step   the step that it started from, and the last one that was logged
    seconds                 from its start to its end
    training_seconds        those in training steps, without compiling, evaluating and saving
    command, commit, versions, host, seed, processes
    line_before             "wall_seconds" of the last line of metrics.jsonl when it began

The next start reads from metrics.jsonl what a killed one did.
"""

import contextlib
import json
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from igerg_jax import storage
from igerg_jax.report.templates import finite
from igerg_jax.run.provenance import now, provenance
from igerg_jax.run.workdirs import METRICS_FILE

FILE = "history.json"
_MAX_REASON = 300  # characters


def read(workdir: epath.Path) -> list[dict[str, Any]]:
    """The entries so far; none if there is no such file. Damaged ones are left out."""
    if not storage.is_regular_file(workdir / FILE):  # a pipe would be waited for
        return []
    try:
        entries = storage.from_json((workdir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if _is_entry(entry)] if isinstance(entries, list) else []


def _is_entry(value: Any) -> bool:
    """Whether a value read from JSON has what is added up over the entries."""
    if not isinstance(value, dict):
        return False
    first: Any = value.get("first_step")
    last: Any = value.get("last_step")
    seconds = (value.get(key) for key in ("seconds", "training_seconds"))
    stopped = value.get("stopped", ...)
    return (
        _is_step(first)
        and _is_step(last)
        and first <= last
        and all(finite(number) for number in seconds)
        and (stopped is None or isinstance(stopped, str))
    )


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and finite(value)


class Start:
    """One start of a run, as it is recorded."""

    def __init__(
        self, workdir: epath.Path, first_step: int, start: float, writes: bool, **facts: Any
    ):
        """Begins an entry, before metrics.jsonl is cut to `first_step`.

        Args:
          first_step: the step that it starts from.
          start: when it started (`time.perf_counter`).
          writes: whether this process writes the file.
          facts: further values of the entry.
        """
        self._workdir, self._start, self._writes = workdir, start, writes
        self.entries = read(workdir)
        line = _last_line(workdir)
        if self.entries and self.entries[-1]["stopped"] is None:
            killed = self.entries[-1]
            killed["stopped"] = "killed"
            if _add_steps(killed, line):
                killed["seconds"] = line["wall_seconds"]
        origin = provenance()
        entry = {"started": origin.pop("date"), "ended": None, "stopped": None}
        entry |= {"first_step": first_step, "last_step": first_step}
        entry |= {"seconds": 0.0, "training_seconds": 0.0, **origin, **facts}
        entry["line_before"] = line.get("wall_seconds")
        self.entries.append(entry)
        self._write()

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Completes the entry when the block ends, in whatever way."""
        stopped = "finished"
        try:
            yield
        except SystemExit as error:
            number = error.code - 128 if isinstance(error.code, int) else 0
            known = number in {each.value for each in signal.Signals}
            stopped = signal.Signals(number).name if known else f"exit code {error.code}"
            raise
        except BaseException as error:
            stopped = f"{type(error).__name__}: {error}"[:_MAX_REASON]
            raise
        finally:
            with contextlib.suppress(OSError):  # a full disk: the block's own error is reported
                self.update(stopped)

    def update(self, stopped: str | None) -> None:
        """Updates the entry; `stopped`: why the start ended, None = it is still running."""
        entry = self.entries[-1]
        _add_steps(entry, _last_line(self._workdir))
        entry |= {"seconds": time.perf_counter() - self._start, "stopped": stopped}
        entry["ended"] = now() if stopped else None
        self._write()

    def _write(self) -> None:
        if self._writes:
            storage.write_text(self._workdir / FILE, json.dumps(self.entries, indent=1) + "\n")


def totals(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Totals over the starts of a run.

    Returns:
      {"starts", "steps" (trained and kept), "lost_steps" (trained again, from a checkpoint
      before them), "seconds", "training_seconds" (of the steps that were kept), "goodput"
      ("training_seconds" / "seconds"; None if that is 0 / 0)}.
    """
    steps = lost = 0
    useful = 0.0
    following = [*(entry["first_step"] for entry in entries[1:]), None]
    for entry, next_first in zip(entries, following, strict=True):
        done = entry["last_step"] - entry["first_step"]
        kept = done if next_first is None else min(done, next_first - entry["first_step"])
        kept = max(kept, 0)
        steps, lost = steps + kept, lost + done - kept
        useful += entry["training_seconds"] * kept / done if done else 0.0
    seconds = sum(entry["seconds"] for entry in entries)
    return {
        "starts": len(entries),
        "steps": steps,
        "lost_steps": lost,
        "seconds": seconds,
        "training_seconds": useful,
        "goodput": useful / seconds if seconds else None,
    }


def _last_line(workdir: epath.Path) -> dict[str, Any]:
    """The last line of metrics.jsonl that is about an interval of steps; {} = none."""
    lines = storage.read_json_lines(workdir / METRICS_FILE).objects
    for line in reversed(lines):
        seconds = (line.get(name) for name in ("wall_seconds", "training_seconds"))
        if _is_step(line.get("step")) and all(map(finite, seconds)):
            return line
    return {}


def _add_steps(entry: dict[str, Any], line: dict[str, Any]) -> bool:
    """Updates an entry from a line, unless an earlier start wrote it; returns whether it did."""
    is_own = bool(line) and line["wall_seconds"] != entry.get("line_before")
    if is_own and line["step"] > entry["first_step"]:
        entry |= {"last_step": line["step"], "training_seconds": line["training_seconds"]}
    return is_own
