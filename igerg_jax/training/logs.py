"""The progress that training reports, in metrics.jsonl, to trackers and in the terminal."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import tqdm
from etils import epath

from igerg_jax import storage
from igerg_jax.errors import RunError
from igerg_jax.evaluation import samples
from igerg_jax.parallel import chips
from igerg_jax.run.workdirs import METRICS_FILE
from igerg_jax.training import trackers

_BUCKET_SECONDS = 30  # between writes of a file in a bucket


def say(message: str) -> None:
    """Prints a line to stderr, without breaking a progress bar; only in process 0."""
    if jax.process_index() == 0:
        tqdm.tqdm.write(message, file=sys.stderr)
        sys.stderr.flush()


def due(step: int, every: int) -> bool:
    """Whether something that happens every `every` steps (0 = never) happens after `step`."""
    return every > 0 and step % every == 0


class StepLog:
    """Reads each step's metrics, reports them, and stops a run whose steps are all skipped.

    The metrics of a step are read once the next step has been launched, so that the device never
    waits for the host.
    """

    def __init__(self, train: Any, workdir: epath.Path, first_step: int, start: float):
        """Opens metrics.jsonl and the trackers, in process 0.

        Args:
          train: `config.train`.
          first_step: the step that training starts from.
          start: when the run started (`time.perf_counter`).
        """
        self._train, self._workdir = train, workdir
        self._first_step, self._start = first_step, start
        is_writer = jax.process_index() == 0
        self._writers: list[Any] = []
        if is_writer:
            self._writers.append(JsonlWriter(workdir / METRICS_FILE, first_step))
            self._writers.append(tracker(workdir, train.wandb_project))
        self._bar = tqdm.tqdm(
            total=train.steps,
            initial=first_step,
            desc="train",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{postfix}]",
            dynamic_ncols=True,
            disable=None if is_writer else True,  # None = if stderr is no terminal
        )
        # A step, its metrics on the device, and its model FLOPs.
        self._pending: tuple[int, Any, float] | None = None
        self._interval: list[dict[str, float]] = []  # metrics since the last logged interval
        # Training seconds, input-wait seconds and model FLOPs when it began.
        self._interval_start = (0.0, 0.0, 0.0)
        self.clock = Clock()
        self.model_flops = 0.0  # of the steps that have finished
        self.throughput = Throughput(train.batch_size, jax.devices())
        self.seconds_to_first_step: float | None = None

    def add(self, step: int, metrics: Any, model_flops: float) -> None:
        """Keeps the metrics, on the device, of a step just launched; reads the previous ones."""
        self.flush()
        self._pending = (step, metrics, model_flops)
        self._bar.update(step - self._bar.n)

    def flush(self) -> None:
        """Reads the metrics of the last step launched, and logs an interval that ends with it.

        Raises:
          RunError: `train.max_consecutive_skips` steps in a row were not finite.
        """
        if self._pending is None:
            return
        (step, metrics, model_flops), self._pending = self._pending, None
        self.model_flops += model_flops
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = time.perf_counter() - self._start
        self._interval.append(values)
        if values["skipped"]:
            say(f"step {step}: {_culprit(values)} is not finite; the step is skipped")
        if values["consecutive_skips"] >= self._train.max_consecutive_skips:
            raise RunError(
                f"step {step}: {_culprit(values)} was not finite for "
                f"{self._train.max_consecutive_skips} steps in a row; the newest checkpoint in "
                f"{self._workdir} is from before that. Lower optim.peak_learning_rate or that "
                "objective's weight, then start again"
            )
        is_first = step == self._first_step + 1
        if is_first or due(step, self._train.log_every_steps) or step == self._train.steps:
            self.end_interval(step)

    def end_interval(self, step: int) -> None:
        """Logs the means over the steps since the last interval, without skipped ones."""
        if not self._interval:
            return
        seconds, waited = self.clock.training_seconds, self.clock.input_seconds
        elapsed = max(seconds - self._interval_start[0], 1e-9)
        kept = [row for row in self._interval if not row["skipped"]] or self._interval
        line = {name: sum(row[name] for row in kept) / len(kept) for name in kept[0]}
        line["skipped"] = sum(row["skipped"] for row in self._interval)
        # An interval begins and ends when a step's metrics arrive, so it covers finished steps.
        model_flops = self.model_flops - self._interval_start[2]
        line |= self.throughput.rates(len(self._interval), elapsed, model_flops) | {
            "input_wait_fraction": min((waited - self._interval_start[1]) / elapsed, 1.0),
            "wall_seconds": time.perf_counter() - self._start,
            "training_seconds": seconds,
        }
        self.write(step, line)
        left = (self._train.steps - step) * seconds / max(step - self._first_step, 1)
        self._show(step, line, left)
        self._interval, self._interval_start = [], (seconds, waited, self.model_flops)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes scalars to metrics.jsonl and the trackers."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows of samples.jsonl, as they are after `step`, to progress.jsonl."""
        if self._writers and rows:
            samples.add_progress(step, rows, self._workdir)

    def _show(self, step: int, scalars: Mapping[str, float], seconds_left: float) -> None:
        """Shows an interval on the progress bar, or as a line if there is no terminal."""
        losses = "  ".join(
            f"{name.removeprefix('loss/')} {value:.3g}"
            for name, value in scalars.items()
            if name.startswith("loss/") and name.count("/") == 1
        )
        speed = f"{scalars['examples_per_second']:.0f} examples/s"
        left = f"{tqdm.tqdm.format_interval(seconds_left)} left"
        if self._bar.disable:
            say(f"step {step}/{self._train.steps}  {losses}  {speed}  {left}")
        else:
            self._bar.set_postfix_str(f"{losses}, {speed}, {left}")

    def close(self) -> None:
        """Flushes and closes the writers."""
        self._bar.close()
        for writer in self._writers:
            writer.close()


def _culprit(values: dict[str, float]) -> str:
    """The first objective whose loss is not finite, or else the gradient."""
    for name, value in values.items():
        if name.startswith("loss/") and name != "loss/total" and not math.isfinite(value):
            return f"objective '{name.split('/')[1]}'"
    return "the gradient"


class JsonlWriter:
    """Writes one JSON object per line, after the lines of steps up to `resumed_step`.

    Later lines are dropped, since their steps are trained again. A line is in the file when
    `write_scalars` returns. A bucket's objects cannot be appended to: there the file is rewritten
    at most every `_BUCKET_SECONDS`, and when it is closed.
    """

    def __init__(self, path: epath.Path, resumed_step: int):
        self._path = path
        lines, bad_lines = storage.read_json_lines(path)
        if bad_lines:
            say(f"skipped {bad_lines} unreadable line{'s' * (bad_lines > 1)} of '{path}'")
        kept = (line for line in lines if storage.step_of(line) <= resumed_step)
        self._text = "".join(json.dumps(line) + "\n" for line in kept)
        # Drops the partial line that a kill leaves: the next line would be appended to it.
        if not path.exists() or path.read_bytes() != self._text.encode():
            storage.write_text(path, self._text)
        self._file = None if storage.is_bucket(path) else path.open("a", encoding="utf-8")
        self._written = time.monotonic()

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends a line; NaN and infinity, which JSON does not have, become null."""
        values = {k: v if math.isfinite(v) else None for k, v in scalars.items()}
        line = json.dumps({"step": step, **values}) + "\n"
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
            return
        self._text += line
        if time.monotonic() - self._written > _BUCKET_SECONDS:
            storage.write_text(self._path, self._text)
            self._written = time.monotonic()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        else:
            storage.write_text(self._path, self._text)


def tracker(workdir: epath.Path, wandb_project: str) -> trackers.Tracker:
    """`trackers.open_tracker`; if a package is missing, a tracker that writes nothing."""
    try:
        return trackers.open_tracker(workdir, wandb_project)
    except ImportError as error:
        say(f"no TensorBoard events ({error.name or error} is not installed)")
        return trackers.Tracker([])


class Clock:
    """Seconds spent training, pauses excluded, and how many of these waiting for input.

    (clu's `periodic_actions.ReportProgress` includes evaluations and checkpoints in its steps per
    second and its estimate of the time left, and does not measure input.)
    """

    def __init__(self):
        self.input_seconds = 0.0
        self._training_seconds = 0.0
        self._since: float | None = None  # when it was last started; None while stopped

    @property
    def training_seconds(self) -> float:
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._training_seconds + running

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self._training_seconds, self._since = self.training_seconds, None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count what happens inside: evaluation, a checkpoint, a profile."""
        self.stop()
        yield
        self.start()

    @contextlib.contextmanager
    def waiting_for_input(self) -> Iterator[None]:
        """Counts what happens inside as waiting for input."""
        started = time.perf_counter()
        yield
        self.input_seconds += time.perf_counter() - started


class Throughput(NamedTuple):
    """Converts times of steps that have finished on the devices to rates."""

    batch_size: int  # over all devices
    devices: Sequence[Any]

    def rates(self, steps: int, seconds: float, model_flops: float) -> dict[str, float]:
        """The rates of `steps` steps that took `seconds` and have `model_flops` over all devices.

        "mfu" is model FLOPs as a share of the devices' bfloat16 peak, whatever the compute dtype;
        it is left out if the peak is not known.
        """
        examples = steps * self.batch_size / seconds
        flops = model_flops / seconds / len(self.devices)
        peak = chips.peak_flops(self.devices[0])
        rates = {
            "step_seconds": seconds / steps,
            "examples_per_second": examples,
            "examples_per_second_per_device": examples / len(self.devices),
            "model_tflops_per_second_per_device": flops / 1e12,
        }
        return rates | ({"mfu": flops / peak} if peak else {})
