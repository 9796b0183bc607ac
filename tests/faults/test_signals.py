"""SIGTERM and Ctrl-C in every phase of a run: it ends in seconds, and loses nothing."""

import signal
import subprocess
import sys
import time

import pytest
import small_runs
from test_kills import STEPS, assert_equal, make_config

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = small_runs.LIMIT_SECONDS / 4  # a call that takes longer than 5 s is cut short


def phases(folder):
    """{phase: whether the last of `runs` has come to it}."""
    run = folder / "run"

    def saving(said):
        return any("orbax" in path.name for path in (run / "checkpoints").glob("*tmp*"))

    return {
        "starting": lambda said: list(folder.glob("log-*")),  # main is called next
        "compiling": lambda said: "compiling the step" in said,
        "a step": lambda said: len(small_runs.losses(run)) > 1,
        "saving": saving,
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_every_phase(number, tmp_path, tried):
    """Each phase is that of a start of one run, which then equals an uninterrupted one."""
    config = make_config()
    with small_runs.started(config, tmp_path / "whole") as (run,):
        assert run.wait() == 0, run.said()
    folder, stopped = tmp_path / "stopped", []
    for phase, reached in phases(folder).items():
        with small_runs.started(config, folder) as (run,):
            if not run.wait_for(lambda run=run, reached=reached: reached(run.said())):
                break  # it was done before it could be caught
            run.send(number)
            sent = time.monotonic()
            code = run.wait(PATIENCE_SECONDS)
            assert code in (128 + number, -number), run.said()
            assert code > 0 or phase == "starting"
            assert "Traceback" not in run.said(), run.said()
            stopped.append((phase, round(time.monotonic() - sent, 1)))
    print(f"{number.name}: {stopped}")
    with small_runs.started(config, folder) as (run,):
        assert run.wait() == 0, run.said()
    assert_equal(folder, tmp_path / "whole")
    assert len(stopped) >= 3 and STEPS > 0
    for phase, _ in stopped:
        tried(f"{number.name} while {phase}", 128 + number, 1, "saved where needed; resumes")


# main.py, but for what it does with the first batch of each evaluation in training: it says so in
# one file, and waits for another.
HELD_UP = """
import pathlib, sys, time
from igerg_jax.cli import main
from igerg_jax.data import pipeline
from igerg_jax.evaluation import evaluator

folder = pathlib.Path(sys.argv[1])
metrics, read = evaluator.Evaluator.metrics, pipeline.window_batches

def held_up(*arguments, **options):
    for batch in read(*arguments, **options):
        yield batch
        while (folder / "evaluating").exists() and not (folder / "go on").exists():
            time.sleep(0.01)

def measured(*arguments, **options):
    (folder / "evaluating").touch()
    return metrics(*arguments, **options)

evaluator.Evaluator.metrics, pipeline.window_batches = measured, held_up
sys.exit(main.main(["main.py", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_an_evaluation(number, data_dir, tmp_path, tried):
    """With words and pictures, in an interpreter of its own."""
    config = small_runs.with_data(small_runs.make_config(), data_dir)
    config.train.update(steps=4, evaluate_every_steps=2)
    config.evaluate.examples = 0  # all there are
    deadline = time.monotonic() + 4 * small_runs.LIMIT_SECONDS
    command = [sys.executable, "-c", HELD_UP, tmp_path, *small_runs.options(config, tmp_path)]

    def run(between):
        with subprocess.Popen(
            command,
            cwd=small_runs.ROOT,
            stderr=subprocess.PIPE,
            text=True,
            # Where the tests run in the background, Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            try:
                between(process)
                said = process.communicate(timeout=4 * small_runs.LIMIT_SECONDS)[1]
            finally:
                process.kill()
        return process.returncode, said

    def stop(process):
        while process.poll() is None and not (tmp_path / "evaluating").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        (tmp_path / "go on").touch()

    code, said = run(stop)
    assert code == 128 + number, said
    assert "step 2 on valid" not in said
    code, said = run(lambda process: None)
    assert code == 0, said
    assert "step 2 on valid" in said and "step 4 on valid" in said
    tried(f"{number.name} while evaluating", 128 + number, 1, "saved; evaluates next time")
