"""The record of a run over all its starts: <workdir>/history.json, one entry for each.

    started, ended          ISO 8601, UTC; ended is null while it runs
    stopped                 why: "finished", a signal, an error, "killed" (nothing was said)
    first_step, last_step   the step that it started from, and the last one that was logged
    seconds                 from its start to its end
    training_seconds        of those, in training steps: no compiling, evaluating or saving
    command, commit, versions, host, seed, processes
    line_before             "wall_seconds" of the last line of metrics.jsonl when it began

What a killed start did is read from metrics.jsonl by the next one.
"""

import contextlib
import json
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from igerg_jax import storage
from igerg_jax.run.provenance import now, provenance

FILE = "history.json"
_MAX_REASON = 300  # characters


def read(workdir: epath.Path) -> list[dict[str, Any]]:
    """The entries so far; none where there is no such file, or no longer a readable one."""
    try:
        entries = json.loads((workdir / FILE).read_text())
    except (OSError, ValueError):
        return []
    keys = {"first_step", "last_step", "seconds", "training_seconds", "stopped"}
    entries = entries if isinstance(entries, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and keys <= entry.keys()]


class Start:
    """One start of a run, as it is recorded."""

    def __init__(
        self, workdir: epath.Path, first_step: int, start: float, writes: bool, **facts: Any
    ):
        """Begins an entry, before metrics.jsonl is cut to `first_step`.

        Args:
          start: when it started (`time.perf_counter`).
          writes: whether this is the process that writes it to the disk.
          facts: what else the entry says.
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
        """Ends the entry with the block, however that ends."""
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
            with contextlib.suppress(OSError):  # a full disk: the error itself is reported
                self.update(stopped)

    def update(self, stopped: str | None) -> None:
        """Brings the entry up to date; `stopped` = why it ends, None = it still runs."""
        entry = self.entries[-1]
        _add_steps(entry, _last_line(self._workdir))
        entry |= {"seconds": time.perf_counter() - self._start, "stopped": stopped}
        entry["ended"] = now() if stopped else None
        self._write()

    def _write(self) -> None:
        if self._writes:
            storage.write_text(self._workdir / FILE, json.dumps(self.entries, indent=1) + "\n")


def totals(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the starts of a run come to together.

    Returns:
      {"starts", "steps" (trained and kept), "lost_steps" (trained, then trained again from a
      checkpoint before them), "seconds", "training_seconds" (of the steps that were kept),
      "goodput" (the share of `seconds` in them; None where nothing is known)}.
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
    """The last line of metrics.jsonl about an interval of steps; {} = none."""
    lines = storage.read_json_lines(workdir / "metrics.jsonl").objects
    needed = ("step", "wall_seconds", "training_seconds")
    for line in reversed(lines):
        if all(isinstance(line.get(name), int | float) for name in needed):
            return line
    return {}


def _add_steps(entry: dict[str, Any], line: dict[str, Any]) -> bool:
    """Takes over what a line says, unless it was there before this start; returns whether."""
    is_own = bool(line) and line["wall_seconds"] != entry.get("line_before")
    if is_own and line["step"] > entry["first_step"]:
        entry |= {"last_step": line["step"], "training_seconds": line["training_seconds"]}
    return is_own
