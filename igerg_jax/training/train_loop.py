"""The training loop: a config and a workdir in, a trained model and a report out."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from etils import epath

from igerg_jax import batch, checks, environment, objectives, optim, report, storage
from igerg_jax.data import datasets
from igerg_jax.data.datasets import Dataset
from igerg_jax.errors import UserError
from igerg_jax.evaluation import samples
from igerg_jax.evaluation.evaluator import Evaluator
from igerg_jax.evaluation.final_evaluation import evaluate_run
from igerg_jax.parallel import processes, sharding, stopping
from igerg_jax.run import history, integrity, workdirs
from igerg_jax.run.checkpoint import Checkpoints, load_params
from igerg_jax.run.workdirs import CHECKPOINTS, CONFIG_FILE, SUMMARY_FILE, TOKENIZER_FILE
from igerg_jax.training import guards, logs, train_state
from igerg_jax.training.logs import StepLog, due
from igerg_jax.training.model_flops import model_flops
from igerg_jax.training.profiler import Profile
from igerg_jax.training.train_state import TrainingSetup, TrainState
from igerg_jax.training.train_step import lower_step


def run(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Trains `config` in `workdir`, from its newest checkpoint if there is one.

    Process 0 writes config.json, tokenizer.model (of a dataset with words), metrics.jsonl,
    progress.jsonl and TensorBoard events (tensorboard/), and a trace (profile/) if
    `config.profile` asks for one; all processes write checkpoints/. history.json has an entry for
    each start. At the end come summary.json and report.html and, where there is held-out data,
    samples.jsonl, windows.json and following.jsonl (see `final_evaluation.evaluate_run`). A
    finished run is not changed.

    Args:
      config: one that `igerg_jax.checks.check_training` has passed.

    Returns:
      The content of summary.json.

    Raises:
      UserError: the config cannot be trained; nothing was written.
      RunError: training cannot continue; the last good state is saved.
      Stopped: a signal stopped the process; the state is saved.
    """
    with stopping.signals() as stop:
        try:
            return _run(config, workdir, stop)
        except stopping.Stopped as stopped:
            logs.say(_describe_stop(workdir, stopped))
            raise


def _run(config: Any, workdir: epath.Path, stop: stopping.Stop) -> dict[str, Any]:
    start = time.perf_counter()
    if summary := finished_summary(config, workdir):
        return summary
    dataset = datasets.open_dataset(config)
    checks.check_data(dataset, config)
    tokenizer = dataset.tokenizer
    setup = train_state.set_up_training(config, tokenizer.vocab_size, tokenizer.special)
    with (
        exclusive_workdir(workdir),
        contextlib.closing(Checkpoints(workdir, config, tokenizer.digest)) as checkpoints,
    ):
        state, resumed_from = saved_state(setup, checkpoints, tokenizer.digest)
        is_writer = jax.process_index() == 0
        facts = {"seed": config.seed, "processes": jax.process_count()}
        record = history.Start(workdir, resumed_from or 0, start, is_writer, **facts)
        _log_startup(setup, dataset, resumed_from)
        evaluator = (
            Evaluator(setup, dataset, stop.raise_if_stopping) if dataset.split_names else None
        )
        with (
            record.recorded(),
            guards.watchdog(stop, config.train.stall_seconds, config.train.stall_ends_run),
        ):
            state, log = train(setup, dataset, checkpoints, evaluator, state, workdir, start)
            checkpoints.wait()
            results = {}
            if evaluator is not None:
                results = evaluate_run(evaluator, config, eval_params(state), workdir)
        summary = summarise(config, workdir, state, resumed_from, log, record.entries) | results
        if is_writer:
            storage.write_text(workdir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
            track_results(config, workdir, summary)
            logs.say(f"report: {report.write_report(workdir)}")
        return summary


def track_results(config: Any, workdir: epath.Path, summary: Mapping[str, Any]) -> None:
    """Sends the results of a finished run to the trackers."""
    rows = storage.read_json_lines(workdir / samples.FILE).objects
    with contextlib.closing(logs.tracker(workdir, config.train.wandb_project)) as tracker:
        evaluation = summary.get("evaluation") or {}
        tracker.write_results(summary["final_step"], evaluation, rows, config.to_dict())


def finished_summary(config: Any, workdir: epath.Path) -> dict[str, Any] | None:
    """summary.json if nothing is left to train, evaluate or report, which is printed; else None."""
    try:
        summary = storage.read_json_object(workdir / SUMMARY_FILE)
    except UserError:  # the run writes a new one
        return None
    final_step, last = summary.get("final_step"), Checkpoints(workdir, config, "").latest_step()
    if not isinstance(final_step, int) or not config.train.steps <= final_step == last:
        return None
    report_file = workdir / "report.html"
    if not report_file.exists():  # stopped between summary.json and the report, its last file
        return None
    logs.say(
        f"already finished: '{workdir}' has been trained to step {final_step}, see "
        f"{report_file}. To train on, raise train.steps; to evaluate again, use "
        "--mode=evaluate; for a new run, give it a name (--run=NAME)"
    )
    return summary


@contextlib.contextmanager
def exclusive_workdir(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of a workdir. Raises UserError, in all processes, if one is using it."""
    with contextlib.ExitStack() as stack:
        refusal = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(workdirs.locked(workdir))
            except UserError as error:
                refusal = str(error)
        if refusals := [text for text in integrity.allgather_text(refusal) if text]:
            raise UserError(refusals[0])
        yield


def train(
    setup: TrainingSetup,
    dataset: Dataset,
    checkpoints: Checkpoints,
    evaluator: Evaluator | None,
    state: TrainState | None,
    workdir: epath.Path,
    start: float,
) -> tuple[TrainState, StepLog]:
    """Trains up to `train.steps`.

    Args:
      evaluator: None without held-out data.
      state: from `saved_state`; None = initialise a fresh one.
      start: when the run started (`time.perf_counter`).

    Returns:
      (the state after that step, the log of the steps that this call trained).
    """
    config, first_step = setup.config, 0 if state is None else int(state.step)
    ready = None
    if first_step < config.train.steps:
        ready = compile_and_prefetch(setup, dataset, evaluator, state)
    if jax.process_index() == 0:  # only now, so that a refused command leaves no config behind
        workdir.mkdir(parents=True, exist_ok=True)
        storage.write_text(workdir / CONFIG_FILE, config.to_json_best_effort(indent=2))
        dataset.tokenizer.save(workdir / TOKENIZER_FILE)
    log = StepLog(config.train, workdir, first_step, start)
    profile = Profile(config.profile, workdir, first_step)
    with contextlib.closing(log), contextlib.closing(profile):
        loop = Loop(setup, checkpoints, evaluator, log, profile)
        if ready is None:  # no step is left to train; the state is only evaluated
            state = train_state.init_state(setup) if state is None else state
            loop.evaluate_if_missing(state)
            return state, log
        processes.wait_for_all("compiled", config.distributed.initialization_timeout_seconds)
        return loop.run(ready), log


def batches(setup: TrainingSetup, dataset: Dataset, start_step: int) -> Iterator[dict]:
    """This process's rows of the batches of steps `start_step`, `start_step` + 1, ..."""
    placed = sharding.batch_sharding(setup.mesh)
    rows_b = sharding.process_rows(placed, setup.config.train.batch_size)
    return dataset.train_batches(setup.config, start_step, rows_b)


class CompiledStep(NamedTuple):
    """The step for batches of one size."""

    run: Callable  # (state, batch) -> (state, metrics)
    model_flops: int


class CompiledRun(NamedTuple):
    """The state, compiled steps and batches that the training loop starts from."""

    state: TrainState
    steps: dict[tuple[int, int], CompiledStep]  # by `batch.lengths`
    batches: Iterator[dict]  # this process's rows, from the state's step on


def compile_and_prefetch(
    setup: TrainingSetup, dataset: Dataset, evaluator: Evaluator | None, state: TrainState | None
) -> CompiledRun:
    """Compiles the step for each size of a batch; meanwhile reads and checks the first batch,
    counts FLOPs and, for an accelerator, compiles the evaluation."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # XLA releases the GIL while it compiles, so this thread can trace, read and count.
        initialising = pool.submit(train_state.lower_init(setup).compile) if state is None else None
        by_length = {each.spec.lengths: each for each in setup.by_length()}
        lowered = {lengths: lower_step(each) for lengths, each in by_length.items()}
        compiling = {lengths: pool.submit(each.compile) for lengths, each in lowered.items()}
        state = initialising.result()() if initialising else state
        source = batches(setup, dataset, int(state.step))
        first = next(source)
        spec = by_length[batch.lengths(first)].spec
        rows = len(first["context"])  # of this process
        batch.check(first, dataclasses.replace(spec, batch_size=rows))
        flops = {lengths: model_flops(each) for lengths, each in by_length.items()}
        # On a CPU that would take from the cores that compile the step.
        if evaluator is not None and jax.default_backend() != "cpu":
            evaluator.compile(setup.abstract_params, setup.config.data.eval_split)
        steps = {n: CompiledStep(each.result(), flops[n]) for n, each in compiling.items()}
        environment.release_free_memory()
        return CompiledRun(state, steps, itertools.chain([first], source))


def saved_state(
    setup: TrainingSetup, checkpoints: Checkpoints, tokenizer_digest: str
) -> tuple[TrainState | None, int | None]:
    """The state to continue from, and the step that the run resumes at.

    Returns:
      (the newest intact checkpoint's state, its step); in a new run (a state with the parameters of
      `init_from`, None), or (None, None) if they are to be initialised at random.
    """
    if checkpoints.latest_step() is not None:
        state = checkpoints.restore(setup.abstract_state)
        return state, int(state.step)
    config = setup.config
    if not config.init_from:
        return None, None
    state = train_state.init_state(setup)
    params, loaded = load_params(
        config.init_from, setup, state.params, tokenizer_digest, config.init_parts
    )
    logs.say(f"starting from {config.init_from}: {loaded.describe()}")
    make = functools.partial(train_state.new_state, config, setup.optimizer)
    return jax.jit(make, out_shardings=setup.state_shardings)(params), None


@dataclasses.dataclass(frozen=True)
class Loop:
    """Runs the steps, with evaluations and checkpoints when due."""

    setup: TrainingSetup
    checkpoints: Checkpoints
    evaluator: Evaluator | None
    log: StepLog
    profile: Profile

    def run(self, ready: CompiledRun) -> TrainState:
        """Trains to `config.train.steps`.

        Raises:
          RunError: too many steps in a row were not finite.
          Stopped: a signal stopped the process; the state is saved.
        """
        train, log, clock = self.setup.config.train, self.log, self.log.clock
        placed = sharding.batch_sharding(self.setup.mesh)
        state, first_step = ready.state, int(ready.state.step)
        with stopping.signals() as stop, stop.loop(self.checkpoints.wait):
            self.evaluate_if_missing(state)
            clock.start()
            for step in range(first_step + 1, train.steps + 1):
                self._update_profile(step - 1, state)
                with clock.waiting_for_input():
                    host_batch = next(ready.batches)
                compiled = ready.steps[batch.lengths(host_batch)]
                with jax.transfer_guard("disallow"):
                    state, metrics = compiled.run(state, sharding.to_devices(host_batch, placed))
                    log.add(step, metrics, compiled.model_flops)
                signal_number = stop.check()
                evaluates = due(step, train.evaluate_every_steps) or step == train.steps
                saves = evaluates or due(step, train.checkpoint_every_steps)
                if signal_number is not None or saves:
                    log.flush()
                    with clock.paused():
                        self.checkpoints.save(state)
                        if signal_number is not None:
                            self.log.end_interval(step)
                            self.checkpoints.wait()
                            raise stopping.Stopped(signal_number)
                        if evaluates:
                            self._evaluate(step, state)
            self._update_profile(train.steps, state)
        clock.stop()
        return state

    def _update_profile(self, step: int, state: TrainState) -> None:
        """Starts or stops the profiler's trace if due, with the clock paused."""
        with self.log.clock.paused():
            if folder := self.profile.update(step, state):
                logs.say(f"profile: {folder}, of the steps up to {step}")

    def evaluate_if_missing(self, state: TrainState) -> None:
        """Evaluates a saved state whose evaluation was interrupted."""
        step, train = int(state.step), self.setup.config.train
        is_due = due(step, train.evaluate_every_steps) or step == train.steps
        if is_due and self.checkpoints.lacks_metrics(step):
            self._evaluate(step, state)

    def _evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates a saved state, and adds the metrics to its checkpoint."""
        if self.evaluator is None:
            return
        split, rows = self.setup.config.data.eval_split, []
        count = self.setup.config.evaluate.progress_examples
        with stopping.signals() as stop, stop.nothing_to_save():
            values = self.evaluator.metrics(eval_params(state), split, generate=False).values
            if count:
                rows = self.evaluator.samples(eval_params(state), split, count)
            self.checkpoints.add_metrics(step, values)
        environment.release_free_memory()  # the first time, its programs were compiled
        self.log.write_samples(step, rows)
        self.log.write(step, {f"{split}/{name}": value for name, value in values.items()})
        shown = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        logs.say(f"step {step} on {split}: {shown}")


def summarise(
    config: Any,
    workdir: epath.Path,
    state: TrainState,
    resumed_from: int | None,
    log: StepLog,
    entries: list[dict[str, Any]],
) -> dict[str, Any]:
    """The content of summary.json, without the final evaluation's.

    Args:
      log: of the steps that this start trained.
      entries: of `igerg_jax.run.history`, this start included; times and rates are over all.
    """
    done, clock = int(state.step) - (resumed_from or 0), log.clock
    total = history.totals(entries)
    summary = {
        "name": config.name,
        "preset": config.preset,
        "steps": config.train.steps,
        "final_step": int(state.step),
        "examples_per_second": None,
        "input_wait_fraction": clock.input_seconds / clock.training_seconds if done else None,
        "seconds_to_first_step": log.seconds_to_first_step,
        "skipped_steps": int(state.skipped_steps),
        "parameters": count_parameters(state.params),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "objectives": {},
        "resumed_from": resumed_from,
        "wall_seconds": total["seconds"],
        "history": total | {"entries": entries},
    }
    lines = storage.read_json_lines(workdir / workdirs.METRICS_FILE).objects
    for name in objectives.active(config):
        losses = [line[f"loss/{name}"] for line in lines if line.get(f"loss/{name}") is not None]
        if losses:
            summary["objectives"][name] = {
                "summary": objectives.OBJECTIVES[name].summary,
                "first_loss": losses[0],
                "last_loss": losses[-1],
            }
    if done and total["training_seconds"]:
        flops = log.model_flops / done * total["steps"]
        return summary | log.throughput.rates(total["steps"], total["training_seconds"], flops)
    if total["training_seconds"]:  # stopped after the last step, before this was written
        examples = total["steps"] * config.train.batch_size
        summary["examples_per_second"] = examples / total["training_seconds"]
    return summary


def count_parameters(params: Any) -> dict[str, int]:
    """{"vision", "text", "judge", "total": number of parameters}."""
    parts = {"vision_tower": "vision", "judge_network": "judge"}
    counts = {"vision": 0, "text": 0, "judge": 0}
    for name, tree in params.items():
        counts[parts.get(name, "text")] += sum(leaf.size for leaf in jax.tree.leaves(tree))
    return counts | {"total": sum(counts.values())}


def eval_params(state: TrainState) -> Any:
    """The parameters to evaluate and generate with: the moving average if there is one."""
    return state.params if state.ema_params is None else state.ema_params


def _describe_stop(workdir: epath.Path, stopped: stopping.Stopped) -> str:
    steps = integrity.steps(workdir / CHECKPOINTS)
    what = "before the first step; there is nothing to save"
    if steps:
        what = f"after step {max(steps)}; the state is saved, the same command resumes from there"
    return f"stopped by {signal.Signals(stopped.number).name} {what}"


def _log_startup(setup: TrainingSetup, dataset: Dataset, resumed_from: int | None) -> None:
    config, params = setup.config, setup.abstract_state.params
    sizes = ", ".join(f"{name} {n / 1e6:.2f} M" for name, n in count_parameters(params).items())
    mesh = ", ".join(f"{axis}={size}" for axis, size in setup.mesh.shape.items())
    logs.say(f"{config.name}:{config.preset}  parameters: {sizes}")
    logs.say(f"mesh: {mesh}  on {jax.device_count()} x {jax.devices()[0].device_kind}")
    if jax.device_count() > 1:  # on one, nothing is sharded
        logs.say(sharding.table(params))
    logs.say(f"data: {dataset.describe(config)}")
    warmup = optim.warmup_steps(config.optim, config.train.steps)
    if warmup != config.optim.warmup_steps:
        logs.say(
            f"train.steps={config.train.steps} has no room for optim.warmup_steps="
            f"{config.optim.warmup_steps}: the learning rate warms up for {warmup} steps"
        )
    if resumed_from is not None:
        logs.say(f"resuming from step {resumed_from}")
    logs.say("compiling the step (seconds on a CPU, minutes for large presets) ...")
