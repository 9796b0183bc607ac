"""How a run reports its progress: metrics.jsonl, TensorBoard events, and the terminal."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import tqdm
from etils import epath

from igerg_jax import storage
from igerg_jax.parallel import chips

_BUCKET_SECONDS = 30


class Writer(Protocol):
    """What `clu.metric_writers.MetricWriter` has for scalars.

    Not that class itself: importing clu.metric_writers imports TensorFlow, 13 s on two cores, and
    training also runs where TensorFlow is not installed.
    """

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """One JSON object per line. Lines past `resumed_step`, which will be trained again, are cut.

    A line is in the file when `write_scalars` returns. Objects in a bucket cannot be appended to:
    there the file is rewritten, at most every `_BUCKET_SECONDS`, and when it is closed.
    """

    def __init__(self, path: epath.Path, resumed_step: int):
        self._path = path
        lines = read_jsonl(path)
        kept = [line for line in lines if line["step"] <= resumed_step]
        self._text = "".join(json.dumps(line) + "\n" for line in kept)
        if kept != lines or not path.exists():
            storage.write_text(path, self._text)
        self._file = None if storage.is_bucket(path) else path.open("a")
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
            self._put()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
        else:
            self._put()

    def _put(self) -> None:
        storage.write_text(self._path, self._text)
        self._written = time.monotonic()


def make_writers(workdir: epath.Path, resumed_step: int) -> list[Writer]:
    """metrics.jsonl always; TensorBoard events where TensorFlow is installed."""
    writers: list[Writer] = [JsonlWriter(workdir / "metrics.jsonl", resumed_step)]
    try:
        from clu import metric_writers

        writers.append(metric_writers.SummaryWriter(os.fspath(workdir / "tensorboard")))
    except ImportError as error:
        say(f"no TensorBoard events ({error.name or error} is not installed)")
    return writers


def read_jsonl(path: epath.Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, a half-written last one left out; [] without a file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Progress:
    """One bar on a terminal, plain lines elsewhere: step, losses, examples/s and time left."""

    def __init__(self, steps: int, start_step: int, quiet: bool):
        self._steps = steps
        self._bar = None
        self._quiet = quiet
        if sys.stderr.isatty() and not quiet:
            form = "{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{postfix}]"
            self._bar = tqdm.tqdm(
                total=steps, initial=start_step, desc="train", bar_format=form, dynamic_ncols=True
            )

    def advance(self, step: int) -> None:
        """Moves the bar to `step`."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def show(self, step: int, scalars: Mapping[str, float], seconds_left: float) -> None:
        """Shows the mean losses of the interval that ended with `step`."""
        losses = "  ".join(
            f"{name.removeprefix('loss/')} {value:.3g}"
            for name, value in scalars.items()
            if name.startswith("loss/") and name.count("/") == 1
        )
        speed = f"{scalars['examples_per_second']:.0f} examples/s"
        left = f"{duration(seconds_left)} left"
        if self._bar is not None:
            self._bar.set_postfix_str(f"{losses}, {speed}, {left}")
        elif not self._quiet:
            say(f"step {step}/{self._steps}  {losses}  {speed}  {left}")

    def close(self) -> None:
        """Ends the bar where it is."""
        if self._bar is not None:
            self._bar.close()


class Clock:
    """Seconds spent training, pauses excluded, and how many of them waiting for input."""

    def __init__(self):
        self.input_seconds = 0.0
        self._training_seconds = 0.0
        self._since: float | None = None  # while it runs, when it was last started

    @property
    def training_seconds(self) -> float:
        """Training seconds until now."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._training_seconds + running

    def start(self) -> None:
        """Starts counting."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stops counting."""
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


class Throughput:
    """Rates of steps that have finished on the devices."""

    def __init__(self, batch_size: int, model_flops: float, devices: Sequence[Any]):
        """Takes a step's examples and its `model_flops.model_flops`, both over all `devices`."""
        self._batch_size, self._flops, self._devices = batch_size, model_flops, len(devices)
        self._peak = chips.peak_flops(devices[0])

    def rates(self, steps: int, seconds: float) -> dict[str, float]:
        """The rates of `steps` steps that took `seconds`.

        "mfu" is model FLOPs as a share of the devices' bfloat16 peak, whatever the compute dtype;
        it is left out where the peak is not known.
        """
        examples = steps * self._batch_size / seconds
        flops = steps * self._flops / seconds / self._devices
        rates = {
            "step_seconds": seconds / steps,
            "examples_per_second": examples,
            "examples_per_second_per_device": examples / self._devices,
            "model_tflops_per_second_per_device": flops / 1e12,
        }
        return rates | ({"mfu": flops / self._peak} if self._peak else {})


def duration(seconds: float) -> str:
    """ "75" -> "1:15"; hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(message: str) -> None:
    """Prints a line to stderr without breaking a progress bar."""
    tqdm.tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()
