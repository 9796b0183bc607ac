"""kill -9 at any time, to a run alone or to one of two processes, costs steps and nothing else."""

import json
import pathlib
import random
import signal
import time

import how_often
import numpy as np
import pytest
import small_runs

from igerg_jax.errors import ProcessEnded, ProcessMissing

pytestmark = pytest.mark.slow
STEPS = 24


def make_config():
    config = small_runs.make_config()
    config.train.update(steps=STEPS, checkpoint_every_steps=4)
    return config


def assert_equal(folder: pathlib.Path, expected: pathlib.Path, steps: int = STEPS) -> None:
    """Two finished runs hold the same bits, and have logged each step once."""
    found, wanted = (
        small_runs.state(at / "run" / "checkpoints" / str(steps)) for at in (folder, expected)
    )
    assert found.keys() == wanted.keys() and len(found) > 100
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)
    figures, wanted = (small_runs.figures(at / "run") for at in (folder, expected))
    assert figures == wanted
    trained = [line["step"] for line in figures if "loss/total" in line]
    assert trained == list(range(1, steps + 1))
    summary, wanted = (
        json.loads((at / "run" / "summary.json").read_text()) for at in (folder, expected)
    )
    assert summary.get("evaluation") == wanted.get("evaluation")
    assert (folder / "run" / "report.html").exists()


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_run_resumes_bit_for_bit(count, tmp_path, tried):
    """Every other kill comes at a random time of a whole run, which mostly starts; the others come
    once it has logged a random one of the steps that it has left, if there are any."""
    draw = random.Random(how_often.SEED + count)
    config = make_config()
    for whole in ("cold", "whole"):  # the first one fills the cache of compiled programs
        began = time.monotonic()
        with small_runs.started(config, tmp_path / whole, count) as runs:
            assert [run.wait() for run in runs] == [0] * count, runs[0].said()
    seconds = time.monotonic() - began
    name = {1: "kill -9 of a run", 2: "kill -9 of one of two processes"}[count]
    codes = {1: "137", 2: f"137, {ProcessEnded.exit_code}"}[count]
    number, steps_at_kills = 0, []
    while len(steps_at_kills) < how_often.KILLS:
        folder = tmp_path / f"run-{number}"
        with small_runs.started(config, folder, count) as runs:
            logged = max(small_runs.losses(folder / "run"), default=0)
            if len(steps_at_kills) % 2 and logged < STEPS:
                wait_for_step(draw.randint(logged + 1, STEPS), folder, runs)
            else:
                time.sleep(draw.uniform(0, seconds))
            victim = draw.choice(runs)
            if all(run.process.is_alive() for run in runs):
                steps_at_kills.append(max(small_runs.losses(folder / "run"), default=0))
                took = kill(runs, victim)
                tried(name, codes, 1, "resumes, bit for bit", took)
                continue
            assert [run.wait() for run in runs] == [0] * count, runs[0].said()
        assert_whole(folder, tmp_path / "whole")
        number += 1
    with small_runs.started(config, folder, count) as runs:
        assert [run.wait() for run in runs] == [0] * count, runs[0].said()
    assert_whole(folder, tmp_path / "whole")
    said = f"killed after steps {steps_at_kills}, of {number + 1} runs"
    print(f"{said}; a whole one took {seconds:.1f} s")


def wait_for_step(step: int, folder: pathlib.Path, runs: list[small_runs.Started]) -> None:
    """Until it is logged, or a process has ended."""
    runs[0].wait_for(
        lambda: (
            max(small_runs.losses(folder / "run"), default=0) >= step
            or not all(run.process.is_alive() for run in runs)
        )
    )


def assert_whole(folder: pathlib.Path, whole: pathlib.Path) -> None:
    """A finished run equals an uninterrupted one, and no checkpoint was damaged on the way."""
    assert_equal(folder, whole)
    assert "damaged" not in "".join(log.read_text() for log in folder.glob("log-*"))


def kill(runs: list[small_runs.Started], victim: small_runs.Started) -> float | None:
    """Kills a process; the other names it and ends. Returns how many seconds later it had ended;
    None for a process alone, and where the other was finished or not told yet who there is."""
    victim.send(signal.SIGKILL)
    began = time.monotonic()
    code = victim.wait()
    assert code in (-signal.SIGKILL, 0)
    for run in runs:
        if run is victim or code == 0:
            continue
        met = "mesh: " in run.said() or "mesh: " in victim.said()
        if not met:  # it would wait for as long as distributed.initialization_timeout_seconds
            run.process.kill()
            continue
        code, took = run.wait(), time.monotonic() - began
        if code == 0:  # it had finished
            continue
        assert code in (ProcessEnded.exit_code, ProcessMissing.exit_code), run.said()
        *_, last = run.said().splitlines()
        assert run.said().count("error:") == 1 and "Traceback" not in run.said(), run.said()
        assert last.startswith("error:") and f"process {runs.index(victim)}" in last, run.said()
        return took
    return None
