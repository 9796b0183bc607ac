"""The training loop: a config and a workdir in, a trained model and a report out."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from igerg_jax import objectives, report
from igerg_jax.batch import synthetic
from igerg_jax.data import datasets
from igerg_jax.errors import RunError
from igerg_jax.parallel import processes, sharding
from igerg_jax.run import logs
from igerg_jax.run.checkpoint import Checkpoints, load_params
from igerg_jax.run.workdirs import TOKENIZER_FILE, write_whole
from igerg_jax.setup import vocabulary
from igerg_jax.training import guards
from igerg_jax.training.model_flops import model_flops
from igerg_jax.training.profiler import Profile
from igerg_jax.training.train_state import (
    TrainingSetup,
    TrainState,
    init_state,
    lower_init,
    new_state,
    set_up_training,
)
from igerg_jax.training.train_step import lower_step


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Trains `config` in `workdir`, from its newest checkpoint if there is one.

    Leaves config.json, tokenizer.model, checkpoints/, metrics.jsonl, TensorBoard events, and, at
    the end, samples.jsonl, summary.json and report.html.

    Returns:
      What is in summary.json.

    Raises:
      UserError: the config asks for what cannot be; nothing was written.
      RunError: training cannot go on; the last good state is saved.
      SystemExit: the process was told to stop; the state is saved.
    """
    start = time.perf_counter()
    prepared = prepare_to_train(config)
    tokenizer = prepared.tokenizer if prepared else None
    setup = set_up_training(config, *vocabulary(config, tokenizer))
    digest = tokenizer.digest if tokenizer else datasets.SYNTHETIC
    checkpoints = Checkpoints(workdir, config, digest)
    try:
        state, resumed_from = saved_state(setup, checkpoints, digest)
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            write_whole(workdir / "config.json", config.to_json_best_effort(indent=2))
            if tokenizer:
                tokenizer.save(workdir / TOKENIZER_FILE)
        _greet(setup, prepared, resumed_from)
        evaluator = make_evaluator(setup, prepared)
        first_step = resumed_from or 0
        ready = None
        if first_step < config.train.steps:
            ready = make_ready(setup, prepared, state)
        elif state is None:
            state = init_state(setup)  # to be evaluated as it is
        # Its writers import TensorFlow, which `make_ready` does while XLA compiles.
        loop = Loop(setup, checkpoints, evaluator, workdir, first_step, start)
        with contextlib.closing(loop):
            if ready:
                state = loop.run(*ready)
        del ready  # with the reader of data, and the compiled step
        summary = loop.summary(state) | {"resumed_from": resumed_from}
        return finish(setup, evaluator, state, workdir, summary, start)
    finally:
        checkpoints.close()


def prepare_to_train(config: Any) -> Any | None:
    """`prepare`; refuses data that lacks what an objective or the evaluation needs."""
    if config.data.dataset == datasets.SYNTHETIC:
        return None
    from igerg_jax.data import mixtures

    mixtures.check_start(config)
    prepared = datasets.open_prepared(config)
    mixtures.check(prepared, config)
    return prepared


def make_evaluator(setup: TrainingSetup, prepared: Any | None) -> Any | None:
    """What evaluates on held-out data; synthetic batches have none."""
    if prepared is None:
        return None
    from igerg_jax.evaluation.evaluators import Evaluator

    return Evaluator(setup, prepared)


def batches(setup: TrainingSetup, prepared: Any | None, start_step: int) -> Iterator[dict]:
    """This process's slice of the batches of steps `start_step`, `start_step` + 1, ..."""
    placed = sharding.batch_sharding(setup.mesh)
    rows_b = sharding.process_rows(placed, setup.config.train.batch_size)
    if prepared is not None:
        from igerg_jax.data import pipeline

        return pipeline.train_batches(prepared, setup.config, start_step, rows_b)

    def make(step: int) -> dict[str, np.ndarray]:
        whole = synthetic(setup.spec, setup.model.special, setup.model.vocab_size, seed=step)
        return {name: values[rows_b] for name, values in whole.items()}

    return map(make, itertools.count(start_step))


class Ready(NamedTuple):
    """What the loop starts with."""

    state: TrainState
    compiled: Callable  # the step
    source: Iterator[dict]  # `batches` from the state's step on
    model_flops: int  # of a step


def make_ready(setup: TrainingSetup, prepared: Any | None, state: TrainState | None) -> Ready:
    """Makes the rest of what the loop needs, beside XLA's two compilations.

    Args:
      state: what `saved_state` found; None = a fresh one is made.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # XLA leaves Python's lock to others. All tracing and launching stays in this thread.
        making = pool.submit(lower_init(setup).compile) if state is None else None
        lowered = lower_step(setup)
        state = making.result()() if making else state
        compiling = pool.submit(lowered.compile)
        source = batches(setup, prepared, int(state.step))
        first = next(source)  # with TensorFlow's import
        flops = model_flops(setup)
        return Ready(state, compiling.result(), itertools.chain([first], source), flops)


def saved_state(
    setup: TrainingSetup, checkpoints: Checkpoints, tokenizer_digest: str
) -> tuple[TrainState | None, int | None]:
    """(the run's newest state, its step), or (one around `init_from`'s parameters, None), or
    (None, None)."""
    step = checkpoints.latest_step()
    if step is not None:
        return checkpoints.restore(setup.abstract_state), step
    config = setup.config
    if not config.init_from:
        return None, None
    state = init_state(setup)
    params, found = load_params(config.init_from, setup, state.params, tokenizer_digest)
    if jax.process_index() == 0:
        logs.say(f"starting from {config.init_from}: {found.describe()}")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_state)
    make = jax.jit(
        lambda params: new_state(config, setup.optimizer, params), out_shardings=shardings
    )
    return make(params), None


class Loop:
    """The steps between the first state and the last, and what they leave in the workdir."""

    def __init__(
        self,
        setup: TrainingSetup,
        checkpoints: Checkpoints,
        evaluator: Any | None,
        workdir: epath.Path,
        resumed_step: int,
        start: float,
    ):
        self._setup, self._config = setup, setup.config
        self._checkpoints, self._evaluator = checkpoints, evaluator
        self._workdir, self._start = workdir, start
        self._is_writer = jax.process_index() == 0
        self._writers = logs.make_writers(workdir, resumed_step) if self._is_writer else []
        self._progress = logs.Progress(
            setup.config.train.steps, resumed_step, quiet=not self._is_writer
        )
        self._first_step = resumed_step
        self._profile = Profile(self._config.profile, workdir, resumed_step)
        self._speed: logs.Speed | None = None  # known once a step is compiled
        self._clock = logs.Clock()
        self._interval: list[dict[str, float]] = []  # metrics since the last line
        self._interval_start = (0.0, 0.0)  # training and input seconds when it began
        self._seconds_to_first_step: float | None = None

    def run(
        self, state: TrainState, compiled: Callable, source: Iterator[dict], model_flops: int
    ) -> TrainState:
        """Trains to `config.train.steps`. The metrics of a step are read after the next one
        was started, so that the device never waits for the host."""
        train, step = self._config.train, int(state.step)
        self._speed = logs.Speed(train.batch_size, model_flops, jax.devices())
        processes.wait_for_all("compiled", self._config.distributed.initialization_timeout_seconds)
        placed = sharding.batch_sharding(self._setup.mesh)
        pending: tuple[int, Any] | None = None
        with guards.stop_signals() as stop_after, guards.watchdog(train.stall_seconds) as alive:
            self._clock = logs.Clock()
            while step < train.steps:
                self._turn_profile(step, state)
                waited = time.perf_counter()
                batch = next(source)
                self._clock.input_seconds += time.perf_counter() - waited
                with jax.transfer_guard("disallow"):
                    state, metrics = compiled(state, sharding.to_devices(batch, placed))
                    step += 1
                    if pending:
                        self._read(*pending)
                    pending = (step, metrics)
                alive()
                self._progress.advance(step)
                stop = stop_after(step)
                if self._pauses_after(step, stop):
                    self._read(*pending)
                    pending = None
                    self._clock.pause()
                    self._evaluate_and_save(step, state, stop)
                    self._clock.resume()
            if pending:
                self._read(*pending)
            self._turn_profile(step, state)
        self._clock.pause()
        return state

    def close(self) -> None:
        """Writes out what the writers buffer, however the run ended."""
        self._profile.close()
        self._progress.close()
        for writer in self._writers:
            writer.close()

    def _turn_profile(self, step: int, state: TrainState) -> None:
        """Begins or ends the trace where it is time to; neither counts as training."""
        self._clock.pause()
        if folder := self._profile.turn(step, state):
            self._say(f"profile: {folder}, of the steps up to {step}")
        self._clock.resume()

    def _say(self, message: str) -> None:
        """One line a run, not one a process."""
        if self._is_writer:
            logs.say(message)

    def _pauses_after(self, step: int, stop: int | None) -> bool:
        train = self._config.train
        every = (train.evaluate_every_steps, train.checkpoint_every_steps)
        return stop is not None or step == train.steps or any(_due(step, n) for n in every)

    def _evaluate_and_save(self, step: int, state: TrainState, stop: int | None) -> None:
        train = self._config.train
        if stop is None and (_due(step, train.evaluate_every_steps) or step == train.steps):
            self._checkpoints.save(state, self._evaluate(step, state))
        else:
            self._checkpoints.save(state)
        if stop is not None:
            if self._interval:
                self._log(step)
            self._checkpoints.wait()
            self._say(
                f"stopped by {signal.Signals(stop).name} after step {step}; the state is saved, "
                "the same command goes on from there"
            )
            sys.exit(128 + stop)

    def _evaluate(self, step: int, state: TrainState) -> dict[str, float] | None:
        if self._evaluator is None:
            return None
        split = self._config.data.eval_split
        values, _ = self._evaluator.metrics(eval_params(state), split, generate=False)
        for writer in self._writers:
            writer.write(step, {f"{split}/{name}": value for name, value in values.items()})
        shown = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        self._say(f"step {step} on {split}: {shown}")
        return values

    def _read(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes a finished step's metrics from the device; logs when a line is due."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        train = self._config.train
        if self._seconds_to_first_step is None:
            self._seconds_to_first_step = time.perf_counter() - self._start
            self._clock.lap()
        self._interval.append(values)
        if values["skipped"]:
            self._say(f"step {step}: {_blame(values)} is not finite; the step is skipped")
        if values["consecutive_skips"] >= train.max_consecutive_skips:
            raise RunError(
                f"step {step}: {_blame(values)} was not finite for {train.max_consecutive_skips} "
                f"steps in a row; the newest checkpoint in {self._workdir} is from before. Lower "
                "optim.peak_learning_rate or that objective's weight and start again"
            )
        first = step == self._first_step + 1
        if first or _due(step, train.log_every_steps) or step == train.steps:
            self._log(step)

    def _log(self, step: int) -> None:
        """Writes the means of an interval, non-finite steps left out."""
        seconds, waited = self._clock.lap(), self._clock.input_seconds
        elapsed = max(seconds - self._interval_start[0], 1e-9)
        count = len(self._interval)
        kept = [row for row in self._interval if not row["skipped"]] or self._interval
        line = {name: sum(row[name] for row in kept) / len(kept) for name in kept[0]}
        line["skipped"] = sum(row["skipped"] for row in self._interval)
        # Both ends of an interval are steps whose metrics were read, so that were waited for.
        line |= self._speed.of(count, elapsed) | {
            "input_wait_fraction": min((waited - self._interval_start[1]) / elapsed, 1.0),
            "wall_seconds": time.perf_counter() - self._start,
        }
        for writer in self._writers:
            writer.write(step, line)
        left = (self._config.train.steps - step) * seconds / max(step - self._first_step, 1)
        self._progress.show(step, line, left)
        self._interval, self._interval_start = [], (seconds, waited)

    def summary(self, state: TrainState) -> dict[str, Any]:
        """summary.json, but for what the final evaluation adds."""
        config = self._config
        done = int(state.step) - self._first_step
        seconds = self._clock.training_seconds
        return {
            "name": config.name,
            "preset": config.preset,
            "steps": config.train.steps,
            "final_step": int(state.step),
            "examples_per_second": None,
            "input_wait_fraction": self._clock.input_seconds / seconds if done else None,
            "seconds_to_first_step": self._seconds_to_first_step,
            "skipped_steps": int(state.skipped_steps),
            "parameters": count_parameters(state.params),
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "objectives": objective_summaries(self._workdir, objectives.active(config)),
        } | (self._speed.of(done, seconds) if done else {})


def finish(
    setup: TrainingSetup,
    evaluator: Any | None,
    state: TrainState,
    workdir: epath.Path,
    summary: dict[str, Any],
    start: float,
) -> dict[str, Any]:
    """The last evaluation, samples.jsonl, summary.json and report.html."""
    if evaluator is not None:
        from igerg_jax.evaluation import evaluators

        summary |= evaluators.run(setup, evaluator, eval_params(state), workdir)
    summary["wall_seconds"] = time.perf_counter() - start
    if jax.process_index() == 0:
        write_whole(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
        page = report.write_report(workdir)
        logs.say(f"report: {page}")
    return summary


def eval_params(state: TrainState) -> Any:
    """The parameters to evaluate and generate with: the moving average where there is one."""
    return state.params if state.ema_params is None else state.ema_params


def count_parameters(params: Any) -> dict[str, int]:
    """Numbers of parameters by part of the model."""
    parts = {"vision_tower": "vision", "judge_network": "judge"}
    counts = {"vision": 0, "text": 0, "judge": 0}
    for name, tree in params.items():
        counts[parts.get(name, "text")] += sum(leaf.size for leaf in jax.tree.leaves(tree))
    return counts | {"total": sum(counts.values())}


def objective_summaries(workdir: epath.Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """summary.json's "objectives": {name: {"summary", "first_loss", "last_loss"}}.

    The losses are those of the first and the last line of metrics.jsonl that have one.
    """
    lines = logs.read_jsonl(workdir / "metrics.jsonl")
    out = {}
    for name in names:
        values = [line[f"loss/{name}"] for line in lines if line.get(f"loss/{name}") is not None]
        if values:
            summary = objectives.OBJECTIVES[name].summary
            out[name] = {"summary": summary, "first_loss": values[0], "last_loss": values[-1]}
    return out


def _greet(setup: TrainingSetup, prepared: Any | None, resumed_from: int | None) -> None:
    if jax.process_index():
        return
    config = setup.config
    counts = count_parameters(setup.abstract_state.params)
    sizes = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items())
    mesh = ", ".join(f"{axis}={size}" for axis, size in setup.mesh.shape.items())
    logs.say(f"{config.name}:{config.preset}  parameters: {sizes}")
    logs.say(f"mesh: {mesh}  on {jax.device_count()} x {jax.devices()[0].device_kind}")
    logs.say(sharding.table(setup.abstract_state.params))
    if prepared is not None:
        windows = prepared.split(config.data.train_split).num_windows
        logs.say(f"data: {config.data.dataset}, {windows} training windows in {prepared.folder}")
    if resumed_from is not None:
        logs.say(f"resuming from step {resumed_from}")
    logs.say("compiling the step (seconds on a CPU, minutes for large presets) ...")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _blame(values: dict[str, float]) -> str:
    """The first objective whose loss is not finite; else the gradient is to blame."""
    for name, value in values.items():
        if name.startswith("loss/") and name != "loss/total" and not math.isfinite(value):
            return f"objective '{name.split('/')[1]}'"
    return "the gradient"
