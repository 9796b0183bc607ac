"""What the training loop logs: the metrics of steps, read one step late, as means of intervals."""

from __future__ import annotations

import math
import time
from typing import Any

import jax
from etils import epath

from igerg_jax.errors import RunError
from igerg_jax.run import logs


def due(step: int, every: int) -> bool:
    """Whether something that happens every `every` steps (0 = never) happens after `step`.

    clu.periodic_actions does the same, but importing it imports TensorFlow: 13 s on two cores.
    """
    return every > 0 and step % every == 0


class StepLog:
    """Reads the metrics of steps, reports them, and stops a run that no longer learns.

    The metrics of a step are read once the next step has been launched, so that the device never
    waits for the host.
    """

    def __init__(self, train: Any, workdir: epath.Path, first_step: int, start: float):
        """Takes `config.train`, the step that training starts from, and when the run started
        (`time.perf_counter`)."""
        self._train, self._workdir = train, workdir
        self._first_step, self._start = first_step, start
        self._is_writer = jax.process_index() == 0
        self._writers = logs.make_writers(workdir, first_step) if self._is_writer else []
        self._progress = logs.Progress(train.steps, first_step, quiet=not self._is_writer)
        self._pending: tuple[int, Any] | None = None  # a step, and its metrics on the device
        self._interval: list[dict[str, float]] = []  # metrics since the last line
        self._interval_start = (0.0, 0.0)  # training and input seconds when it began
        self.clock = logs.Clock()
        self.throughput: logs.Throughput | None = None  # known once a step is compiled
        self.seconds_to_first_step: float | None = None

    def add(self, step: int, metrics: Any) -> None:
        """Takes the metrics, on the device, of a step just launched; reads the step before it."""
        self.flush()
        self._pending = (step, metrics)
        self._progress.advance(step)

    def flush(self) -> None:
        """Reads the last step launched; logs an interval that ends with it.

        Raises:
          RunError: too many steps in a row were not finite.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = time.perf_counter() - self._start
        self._interval.append(values)
        if values["skipped"]:
            self.say(f"step {step}: {_culprit(values)} is not finite; the step is skipped")
        if values["consecutive_skips"] >= self._train.max_consecutive_skips:
            raise RunError(
                f"step {step}: {_culprit(values)} was not finite for "
                f"{self._train.max_consecutive_skips} steps in a row; the newest checkpoint in "
                f"{self._workdir} is from before. Lower optim.peak_learning_rate or that "
                "objective's weight and start again"
            )
        is_first = step == self._first_step + 1
        if is_first or due(step, self._train.log_every_steps) or step == self._train.steps:
            self.end_interval(step)

    def end_interval(self, step: int) -> None:
        """Logs the means of the steps read since the last line, non-finite steps excluded."""
        if not self._interval:
            return
        seconds, waited = self.clock.training_seconds, self.clock.input_seconds
        elapsed = max(seconds - self._interval_start[0], 1e-9)
        kept = [row for row in self._interval if not row["skipped"]] or self._interval
        line = {name: sum(row[name] for row in kept) / len(kept) for name in kept[0]}
        line["skipped"] = sum(row["skipped"] for row in self._interval)
        # An interval begins and ends when a step's metrics arrive, so it covers finished steps.
        line |= self.throughput.rates(len(self._interval), elapsed) | {
            "input_wait_fraction": min((waited - self._interval_start[1]) / elapsed, 1.0),
            "wall_seconds": time.perf_counter() - self._start,
        }
        self.write(step, line)
        left = (self._train.steps - step) * seconds / max(step - self._first_step, 1)
        self._progress.show(step, line, left)
        self._interval, self._interval_start = [], (seconds, waited)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes scalars to metrics.jsonl and TensorBoard."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def say(self, message: str) -> None:
        """Prints a line once per run, not once per process."""
        if self._is_writer:
            logs.say(message)

    def rates(self, steps: int) -> dict[str, float]:
        """Throughput over all `steps` steps since the start."""
        return self.throughput.rates(steps, self.clock.training_seconds)

    def close(self) -> None:
        """Writes out what the writers buffer, however the run ended."""
        self._progress.close()
        for writer in self._writers:
            writer.close()


def _culprit(values: dict[str, float]) -> str:
    """The first objective whose loss is not finite; where all are, the gradient."""
    for name, value in values.items():
        if name.startswith("loss/") and name != "loss/total" and not math.isfinite(value):
            return f"objective '{name.split('/')[1]}'"
    return "the gradient"
