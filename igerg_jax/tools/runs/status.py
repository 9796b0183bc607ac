"""How far the runs in a folder are, from what they have left in their folders."""

import dataclasses
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from igerg_jax.errors import UserError
from igerg_jax.report.templates import finite
from igerg_jax.run import history, workdirs
from igerg_jax.storage import read_json_lines, read_json_object

METRICS_FILE, PROGRESS_FILE = "metrics.jsonl", "progress.jsonl"
MAX_DEPTH = 4  # folders within folders, such as runs/ablations/no_images
SILENT_SECONDS = 1800  # a run on another machine that has written nothing for this long
STARTING, RUNNING, EVALUATING = "starting", "running", "evaluating"
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
GOING_ON = (STARTING, RUNNING, EVALUATING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run as a page shows it.

    Attributes:
      name: its folder, relative to the one that was looked through.
      state: one of the words above; `reason` says more of one that failed or stopped.
      step, steps: the last one logged, and the last one to train; None = not known.
      seconds: since its first start, of those in which it ran.
      left_seconds: to the last step, evaluations during training included; None = not known.
      age_seconds: since it last wrote a metric; None = it has written none.
      records: of metrics.jsonl.
      progress: of progress.jsonl, in order of step.
      evaluation: {split: {metric: value}} of summary.json.
    """

    name: str
    workdir: pathlib.Path
    config: str
    seed: int | None
    state: str
    reason: str
    started: str
    step: int | None
    steps: int | None
    seconds: float | None
    left_seconds: float | None
    age_seconds: float | None
    records: list[dict[str, Any]]
    progress: list[dict[str, Any]]
    evaluation: Mapping[str, Mapping[str, float]]

    @property
    def goes_on(self) -> bool:
        return self.state in GOING_ON

    def last(self, key: str) -> float | None:
        """The last finite value of a key of metrics.jsonl."""
        values = (record.get(key) for record in reversed(self.records))
        return next((value for value in values if finite(value)), None)


def find(folder: pathlib.Path) -> list[Run]:
    """The runs in a folder and in the folders within, the latest start first.

    Raises:
      UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}'; runs are written to ./runs by default")
    runs = [read(path, folder) for path in _workdirs(folder)]
    return sorted(runs, key=lambda run: (run.started, run.name), reverse=True)


def read(workdir: pathlib.Path, folder: pathlib.Path) -> Run:
    """The run in a workdir that lies in `folder`. A damaged file is as good as none."""
    config, summary = _object(workdir / workdirs.CONFIG_FILE), _object(workdir / "summary.json")
    entries = history.read(epath.Path(workdir))
    entry = entries[-1] if entries else {}
    records = _in_order(read_json_lines(workdir / METRICS_FILE).objects)
    training = [record for record in records if finite(record.get("wall_seconds"))]
    train = config.get("train")
    steps = _whole(train.get("steps")) if isinstance(train, dict) else None
    step = training[-1]["step"] if training else None
    age = _age(workdir / METRICS_FILE)
    state, reason = _state(workdir, entry, summary, step, steps, age)
    name = [config.get("name"), config.get("preset")]
    relative = workdir.relative_to(folder).as_posix()
    return Run(
        name=workdir.resolve().name if relative == "." else relative,
        workdir=workdir,
        config=":".join(part for part in name if isinstance(part, str) and part),
        seed=_whole(config.get("seed")),
        state=state,
        reason=reason,
        started=str(entries[0].get("started") or "") if entries else "",
        step=step,
        steps=steps,
        seconds=_seconds(entries, entry, training, state),
        left_seconds=_left(entry, training, steps, age) if state == RUNNING else None,
        age_seconds=age,
        records=records,
        progress=_in_order(read_json_lines(workdir / PROGRESS_FILE).objects),
        evaluation=_splits(summary.get("evaluation")),
    )


def _workdirs(folder: pathlib.Path, depth: int = MAX_DEPTH) -> Iterator[pathlib.Path]:
    if (folder / workdirs.CONFIG_FILE).exists() or (folder / METRICS_FILE).exists():
        yield folder
    elif depth:
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.name.startswith("."):
                yield from _workdirs(inner, depth - 1)


def _object(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object; {} where it cannot be read."""
    try:
        return read_json_object(path)
    except UserError:
        return {}


def _splits(evaluation: Any) -> dict[str, dict[str, Any]]:
    """What summary.json has of each split."""
    splits = evaluation.items() if isinstance(evaluation, dict) else ()
    return {name: values for name, values in splits if isinstance(values, dict)}


def _whole(value: Any) -> int | None:
    """A value read from JSON, if it is a whole number."""
    return value if isinstance(value, int) and finite(value) else None


def _in_order(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with a step, by step."""
    return sorted((r for r in records if finite(r.get("step"))), key=lambda r: r["step"])


def _age(path: pathlib.Path) -> float | None:
    try:
        return max(time.time() - path.stat().st_mtime, 0.0)
    except OSError:
        return None


def _state(
    workdir: pathlib.Path,
    entry: Mapping[str, Any],
    summary: Mapping[str, Any],
    step: int | None,
    steps: int | None,
    age: float | None,
) -> tuple[str, str]:
    """(state, reason) of a run whose last start is `entry` of its history."""
    stopped = entry.get("stopped")
    if stopped == "finished" or (not entry and summary):
        return FINISHED, ""
    if stopped is not None:
        is_signal = str(stopped).startswith("SIG") or stopped == "killed"
        return (STOPPED, f"by {stopped}") if is_signal else (FAILED, str(stopped))
    if not entry:
        return STOPPED, "it has no history"
    if not _is_alive(workdir, entry, age):
        return STOPPED, "killed, or its machine is gone"
    if step is None or step <= entry["first_step"]:
        return STARTING, ""
    return (EVALUATING if steps is not None and step >= steps else RUNNING), ""


def _is_alive(workdir: pathlib.Path, entry: Mapping[str, Any], age: float | None) -> bool:
    """Whether the process of a start that has not ended is there.

    The lock names it. (To try the lock itself could keep a run that starts just then from it.) Of
    a process on another machine, only what it writes says so.
    """
    try:
        owner = (workdir / workdirs.LOCK_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        owner = ""
    found = re.fullmatch(r"process (\d+) on (\S+)", owner.strip())
    if found and found[2] == socket.gethostname():
        try:
            os.kill(int(found[1]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True
    return age is not None and age < SILENT_SECONDS


def _seconds(
    entries: list[dict[str, Any]], entry: Mapping[str, Any], training: list[dict], state: str
) -> float | None:
    """`history` brings its last entry up to date when it ends; until then metrics.jsonl knows."""
    if not entries:
        return None
    total = sum(e["seconds"] for e in entries)
    if state in GOING_ON and training and training[-1]["step"] > entry["first_step"]:
        return total - entry["seconds"] + training[-1]["wall_seconds"]
    return total


def _left(
    entry: Mapping[str, Any], training: list[dict], steps: int | None, age: float | None
) -> float | None:
    """As long as the rest takes at the rate of this start so far, its first line aside."""
    own = [record for record in training if record["step"] > entry["first_step"]]
    if steps is None or len(own) < 2 or own[-1]["step"] == own[0]["step"]:
        return None
    rate = (own[-1]["wall_seconds"] - own[0]["wall_seconds"]) / (own[-1]["step"] - own[0]["step"])
    return max((steps - own[-1]["step"]) * rate - (age or 0.0), 0.0)
