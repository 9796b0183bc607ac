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
    """Kills are spread evenly over the time that a whole run takes."""
    draw = random.Random(how_often.SEED + count)
    config = make_config()
    for whole in ("cold", "whole"):  # the first one fills the cache of compiled programs
        began = time.monotonic()
        with small_runs.started(config, tmp_path / whole, count) as runs:
            assert [run.wait() for run in runs] == [0] * count, runs[0].said()
    seconds = time.monotonic() - began
    kills, number, steps_at_kills = 0, 0, []
    while True:
        folder = tmp_path / f"run-{number}"
        with small_runs.started(config, folder, count) as runs:
            if kills < how_often.KILLS:
                time.sleep(draw.uniform(0, seconds))
                victim = draw.choice(runs)
                if all(run.process.is_alive() for run in runs):
                    kills += 1
                    steps_at_kills.append(max(small_runs.losses(folder / "run"), default=0))
                    victim.send(signal.SIGKILL)
                    check_killed(runs, victim)
                    continue
            assert [run.wait() for run in runs] == [0] * count, runs[0].said()
        assert_equal(folder, tmp_path / "whole")
        assert "damaged" not in "".join(log.read_text() for log in folder.glob("log-*"))
        number += 1
        if kills == how_often.KILLS:
            break
    print(
        f"killed after steps {steps_at_kills}, of {number} runs; a whole one took {seconds:.1f} s"
    )
    names = {1: "kill -9 of a run", 2: "kill -9 of one of two processes"}
    codes = {1: "137", 2: "137, the other 4"}
    tried(names[count], codes[count], kills, "resumes, bit for bit")


def check_killed(runs: list[small_runs.Started], victim: small_runs.Started) -> None:
    """The other process names the one that is gone, unless it was not told who that is yet."""
    code = victim.wait()
    assert code in (-signal.SIGKILL, 0)
    for run in runs:
        if run is victim or code == 0:
            continue
        met = "mesh: " in run.said() or "mesh: " in victim.said()
        if not met:  # it would wait for as long as distributed.initialization_timeout_seconds
            run.process.kill()
            continue
        # 0: the other had finished.
        assert run.wait() in (ProcessEnded.exit_code, ProcessMissing.exit_code, 0), run.said()
