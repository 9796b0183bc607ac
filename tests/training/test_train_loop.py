"""The loop: what it leaves, how it resumes, and how it stops."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

import jax
import made_up_run
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs import pretrain
from igerg_jax import manifests, storage
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.data import datasets
from igerg_jax.errors import RunError, UserError
from igerg_jax.run import history, workdirs
from igerg_jax.run.checkpoint import Checkpoints
from igerg_jax.tools.runs import page as runs_page
from igerg_jax.tools.runs import status
from igerg_jax.training import train_loop, train_state

STEPS = 6
STOP_AFTER = 3
SPEED = (
    "step_seconds",
    "examples_per_second",
    "examples_per_second_per_device",
    "model_tflops_per_second_per_device",
)


def make_config() -> ConfigDict:
    """Random feature vectors instead of a dataset, and the objectives that compile quickly."""
    config = pretrain.get_config()
    config.data.update(
        dataset=datasets.SYNTHETIC, context_turns=2, context_tokens=12, response_tokens=8
    )
    config.data.feature_dim = 8
    config.data.tokenizer.vocab_size = 64
    config.model.vision.kind = "features"
    config.model.text.update(
        width=16, encoder_layers=1, decoder_layers=1, heads=2, mlp_width=32, max_positions=16
    )
    config.model.text.dropout_rate = 0.1  # so that resuming must restore randomness too
    config.model.judge.update(width=8, heads=2, mlp_width=16)
    for name, settings in config.objectives.items():
        settings.weight = 1.0 if name in ("image_emotion", "text_emotion") else 0.0
    config.optim.update(warmup_steps=2, ema_decay=0.9, schedule="inverse_sqrt")
    config.train.update(
        batch_size=8,
        steps=STEPS,
        log_every_steps=2,
        evaluate_every_steps=4,
        checkpoint_every_steps=2,
        keep_checkpoints=2,
        max_consecutive_skips=2,
        stall_seconds=0,
    )
    return config


@pytest.fixture
def config() -> ConfigDict:
    return make_config()


@pytest.fixture(scope="module", autouse=True)
def lowered() -> list[str]:
    """What was asked for, in order. A run uses what an earlier one of the same config compiled.

    In a process of its own it would compile that again: the same program.
    """
    names = []
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (train_loop, "lower_step"),
            (train_loop, "model_flops"),
            (train_loop.train_state, "lower_init"),
        ):
            patch.setattr(module, name, once_a_config(getattr(module, name), names))
        yield names


class Program(NamedTuple):
    """A lowered program that is compiled at most once."""

    compile: Callable


def once_a_config(original: Callable, names: list[str]) -> Callable:
    made = {}

    def lower(setup):
        config = setup.config.copy_and_resolve_references()
        # The program depends on none of these, nor on train.steps with `make_config`'s schedule.
        del config.profile, config.train.steps
        del config.train.evaluate_every_steps, config.train.checkpoint_every_steps
        del config.train.stall_seconds, config.train.stall_ends_run
        names.append(original.__name__)
        if str(config) not in made:
            result = original(setup)
            if hasattr(result, "compile"):
                result = Program(functools.cache(result.compile))
            made[str(config)] = result
        return made[str(config)]

    return lower


class Finished(NamedTuple):
    """A run from its first step to its last."""

    folder: epath.Path
    summary: dict
    lowered: tuple[str, ...]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, lowered) -> Finished:
    folder, before = epath.Path(tmp_path_factory.mktemp("finished")), len(lowered)
    summary = train_loop.run(make_config(), folder)
    return Finished(folder, summary, tuple(lowered[before:]))


def final_state(config, workdir: epath.Path) -> train_state.TrainState:
    setup = train_state.set_up_training(config, config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS)
    checkpoints = Checkpoints(workdir, config, datasets.SYNTHETIC)
    state = checkpoints.restore(setup.abstract_state)
    checkpoints.close()
    return state


def interrupt(monkeypatch, at: int, action) -> None:
    """Has `action(batch)` called on the batch of step `at`, counted from the run's start."""
    source = train_loop.batches

    def batches(setup, dataset, start_step):
        for i, batch in enumerate(source(setup, dataset, start_step)):
            if i >= at:
                action(batch)
            yield batch

    monkeypatch.setattr(train_loop, "batches", batches)


def logged(workdir: epath.Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return storage.read_json_lines(workdir / "metrics.jsonl").objects


def stripped(workdir: epath.Path) -> list[dict]:
    """metrics.jsonl without what the clock decides."""
    clock = {"wall_seconds", "training_seconds", "input_wait_fraction"} | set(SPEED)
    return [{k: v for k, v in line.items() if k not in clock} for line in logged(workdir)]


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path)


def run_until(config, workdir, monkeypatch, number: signal.Signals, batches: int) -> None:
    """Trains until `number` arrives with the last of so many batches."""
    with monkeypatch.context() as patch:
        interrupt(patch, batches - 1, lambda batch: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as stopped:
            train_loop.run(config, workdir)
    assert stopped.value.code == 128 + number


def test_a_run_stopped_and_resumed_equals_an_uninterrupted_one(
    config, folder, finished, monkeypatch
):
    assert finished.summary["resumed_from"] is None and finished.summary["final_step"] == STEPS
    run_until(config, folder, monkeypatch, signal.SIGTERM, STOP_AFTER)
    assert logged(folder)[-1]["step"] == STOP_AFTER
    run_until(config, folder, monkeypatch, signal.SIGINT, 2)
    assert logged(folder)[-1]["step"] == STOP_AFTER + 2
    resumed = train_loop.run(config, folder)
    assert resumed["resumed_from"] == STOP_AFTER + 2
    entries = resumed["history"]["entries"]
    assert [entry["stopped"] for entry in entries] == ["SIGTERM", "SIGINT", "finished"]
    assert [entry["last_step"] for entry in entries] == [STOP_AFTER, STOP_AFTER + 2, STEPS]
    np.testing.assert_allclose(resumed["wall_seconds"], sum(entry["seconds"] for entry in entries))

    expected, resumed = (final_state(config, at) for at in (finished.folder, folder))
    assert int(resumed.step) == STEPS
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


class CountingEvaluator:
    """Measures the same always, in two batches; `at` is called before the second."""

    def __init__(self, at, between_batches):
        self.at, self.between_batches, self.evaluated = at, between_batches, []
        self.labellers = {}

    def compile(self, params, split):
        pass

    def metrics(self, params, split, generate):
        self.between_batches()
        self.at()
        self.between_batches()
        self.evaluated.append(len(self.evaluated))
        return types.SimpleNamespace(values={"response_perplexity": 2.0})

    def samples(self, params, split, count):
        return [made_up_run.make_samples(1)[0] | {"index": i} for i in range(count)]


@pytest.fixture
def evaluating(monkeypatch):
    """Gives the data a split to evaluate; returns (the evaluators made, what interrupts them)."""
    made, interruptions = [], []

    def make(setup, dataset, between_batches):
        at = interruptions.pop() if interruptions else lambda: None
        made.append(CountingEvaluator(at, between_batches))
        return made[-1]

    monkeypatch.setattr(datasets.SyntheticDataset, "split_names", ("valid",))
    monkeypatch.setattr(train_loop, "Evaluator", make)
    monkeypatch.setattr(train_loop, "evaluate_run", lambda *_: {})
    return made, interruptions


@pytest.mark.parametrize("evaluate_every", [pytest.param(4, marks=pytest.mark.slow), STEPS])
def test_a_run_stopped_while_it_evaluates_has_saved_and_evaluates_then(
    config, folder, evaluating, evaluate_every
):
    """In the last evaluation, too."""
    config.train.update(evaluate_every_steps=evaluate_every, checkpoint_every_steps=0)
    made, interruptions = evaluating
    interruptions.append(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        train_loop.run(config, folder)
    assert stopped.value.code == 143
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [str(evaluate_every)]
    summary = train_loop.run(config, folder)
    assert (summary["resumed_from"], summary["final_step"]) == (evaluate_every, STEPS)
    evaluated = [line["step"] for line in logged(folder) if "valid/response_perplexity" in line]
    assert evaluated == sorted({evaluate_every, STEPS})
    progress = storage.read_json_lines(folder / "progress.jsonl").objects
    assert [(line["step"], line["index"]) for line in progress] == [
        (step, i) for step in evaluated for i in range(config.evaluate.progress_examples)
    ]
    assert len(made[0].evaluated) == 0 and len(made[1].evaluated) == len(evaluated)
    checkpoints = Checkpoints(folder, config, datasets.SYNTHETIC)
    assert not checkpoints.lacks_metrics(STEPS)
    checkpoints.close()


def test_the_watchdog_is_on_until_all_is_evaluated(config, folder, evaluating, monkeypatch):
    config.train.update(stall_seconds=7, stall_ends_run=True, checkpoint_every_steps=0)
    on, seen = [], []

    @contextlib.contextmanager
    def watchdog(stop, *settings):
        on.append(settings)
        yield
        on.remove(settings)

    class Watched(Checkpoints):
        def wait(self):
            seen.append(("save", *on))
            super().wait()

    monkeypatch.setattr(train_loop.guards, "watchdog", watchdog)
    monkeypatch.setattr(train_loop, "Checkpoints", Watched)
    monkeypatch.setattr(train_loop, "evaluate_run", lambda *_: seen.append(("final", *on)) or {})
    interrupt(monkeypatch, 0, lambda batch: seen.append(("step", *on)))
    train_loop.run(config, folder)
    *watched, closing = seen  # nothing is left to save when the checkpoints are closed
    assert closing == ("save",) and not on
    assert {what for what, *_ in watched} == {"step", "save", "final"}
    assert {tuple(settings) for _, *settings in watched} == {((7, True),)}


def test_a_run_leaves_what_it_promises(finished):
    folder, summary = finished.folder, finished.summary
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert json.loads((folder / "config.json").read_text())["train"]["steps"] == STEPS
    assert "<html" in (folder / "report.html").read_text()
    assert [line["step"] for line in stripped(folder)] == [1, 2, 4, 6]
    assert set(summary["objectives"]) == {"image_emotion", "text_emotion"}
    parts = summary["parameters"]
    assert parts["total"] == parts["vision"] + parts["text"] + parts["judge"]


def test_non_finite_steps_stop_the_run_by_name(config, folder, monkeypatch):
    def poison(batch):
        batch["features"][...] = np.nan

    interrupt(monkeypatch, STOP_AFTER, poison)
    with pytest.raises(RunError, match=r"step 5: objective 'image_emotion' was not finite for 2"):
        train_loop.run(config, folder)
    # The checkpoint of step 4 counts one skip; nothing of it is NaN.
    for leaf in jax.tree.leaves(final_state(config, folder)):
        assert np.isfinite(np.asarray(leaf)).all()


def test_the_step_compiles_once(finished):
    assert sorted(finished.lowered) == ["lower_init", "lower_step", "model_flops"]


def test_another_train_steps_goes_on_from_the_end(config, folder, finished):
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    config.train.steps = STEPS + 2
    summary = train_loop.run(config, folder)
    assert summary["resumed_from"] == STEPS and summary["final_step"] == STEPS + 2
    starts = [(e["first_step"], e["last_step"]) for e in summary["history"]["entries"]]
    assert starts == [(0, STEPS), (STEPS, STEPS + 2)]


def test_a_finished_run_says_so_and_keeps_its_record(config, folder, finished, capsys):
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert train_loop.run(config, folder) == finished.summary
    assert "already finished" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("lost", [("summary.json", "report.html"), ("report.html",)])
def test_what_was_killed_before_its_last_files_writes_them(config, folder, finished, lost):
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    for name in lost:
        (folder / name).unlink()
    again = train_loop.run(config, folder)
    assert json.loads((folder / "summary.json").read_text()) == again
    assert "<html" in (folder / "report.html").read_text()
    assert again["history"]["starts"] == 2 and again["history"]["steps"] == STEPS
    assert again["examples_per_second"] == pytest.approx(finished.summary["examples_per_second"])
    assert again["wall_seconds"] > finished.summary["wall_seconds"]
    assert again["objectives"] == finished.summary["objectives"]


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(
    config, folder, finished, capsys
):
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    (folder / "summary.json").unlink()
    newest = folder / "checkpoints" / str(STEPS)
    name = max(manifests.read(newest), key=lambda name: manifests.read(newest)[name]["bytes"])
    data = bytearray((newest / name).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / name).write_bytes(data)
    summary = train_loop.run(config, folder)
    assert f"checkpoints/{STEPS}' is damaged: {name}" in capsys.readouterr().err
    assert (summary["resumed_from"], summary["final_step"]) == (4, STEPS)
    assert summary["history"]["lost_steps"] == STEPS - 4
    assert [line["step"] for line in logged(folder)] == [1, 2, 4, 5, 6]
    expected, again = (final_state(config, at) for at in (finished.folder, folder))
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_what_is_refused_before_the_first_step_leaves_no_config(
    config, folder, monkeypatch, capsys
):
    def refuse(*_):
        raise UserError("does not fit")

    monkeypatch.setattr(train_loop, "compile_and_prefetch", refuse)
    config.optim.update(schedule="cosine", warmup_steps=3)
    config.train.steps = 2
    with pytest.raises(UserError, match="does not fit"):
        train_loop.run(config, folder)
    assert not (folder / "config.json").exists()
    assert "train.steps=2 has no room for optim.warmup_steps=3" in capsys.readouterr().err


def test_a_folder_of_any_name_is_resumed_and_reported(config, tmp_path, finished):
    folder = epath.Path(tmp_path / "a b#%?'ü")
    shutil.copytree(finished.folder, folder)
    (folder / "summary.json").unlink()
    assert train_loop.run(config, folder)["final_step"] == STEPS
    assert [e["stopped"] for e in history.read(folder)] == ["finished", "finished"]
    page = runs_page.render(status.find(tmp_path), "runs", folder=tmp_path)
    (link,) = re.findall('<a href="([^"#]*report.html)"', page)
    assert (tmp_path / urllib.parse.unquote(link)).samefile(os.fspath(folder / "report.html"))


def test_a_workdir_in_use_is_refused_by_name_until_its_process_is_gone(config, folder):
    code = (
        "import sys, time; from etils import epath; from igerg_jax.run import workdirs\n"
        f"with workdirs.locked(epath.Path('{folder}')): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"in use by process {holder.pid} on \S+;"):
            train_loop.run(config, folder)
        assert [path.name for path in folder.iterdir()] == ["lock"]
    finally:
        holder.kill()
        holder.wait()
    with workdirs.locked(folder):
        pass


def test_a_profile_is_written_and_changes_nothing(config, folder, finished):
    """TensorBoard's plug-in looks for *.xplane.pb below plugins/profile."""
    # One step, without a checkpoint: tracing that takes long.
    config.profile.update(after_steps=2, steps=1)
    train_loop.run(config, folder / "profiled")
    (trace,) = (folder / "profiled" / "profile" / "plugins" / "profile").glob("*/*.xplane.pb")
    assert trace.stat().length > 1000
    assert not (finished.folder / "profile").exists()
    assert stripped(finished.folder) == stripped(folder / "profiled")
    plain, profiled = (final_state(config, at) for at in (finished.folder, folder / "profiled"))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(profiled), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_speed_counts_steps_that_ended(config, folder, monkeypatch):
    """A slow step shows in the line of its interval, not in the one before or after."""
    slow = iter([0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    interrupt(monkeypatch, 0, lambda batch: time.sleep(next(slow)))
    summary = train_loop.run(config, folder)
    lines = {line["step"]: line for line in logged(folder)}
    assert lines[6]["step_seconds"] > 0.5 > lines[4]["step_seconds"]
    assert set(SPEED) <= summary.keys() and "mfu" not in summary
