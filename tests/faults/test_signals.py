"""SIGTERM, Ctrl-C, SIGHUP and kill -9 in every phase of a run: it ends in seconds, and resumes."""

import json
import signal
import time

import pytest
import small_runs
from small_runs import Hold
from test_kills import STEPS, assert_equal, make_config

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = small_runs.LIMIT_SECONDS / 4  # a call that takes longer than 5 s is cut short
LAST_STEP = {"vectors": STEPS, "data": 4}
# The phases of a run, in the order in which starts of it are stopped there: by a call that waits
# in the phase, so that none is missed, or by what has been printed.
PHASES: dict[str, dict[str, Hold | str]] = {
    "vectors": {
        "starting": "",  # main is called next
        "compiling": "compiling the step",
        "in a step": Hold("igerg_jax.training.logs", "StepLog.add", 3),
        "saving": Hold("igerg_jax.run.integrity", "write_list", 2),  # in the background
        "restoring": Hold("igerg_jax.run.checkpoint", "_restore"),
        "writing the report": Hold("igerg_jax.report", "write_report"),
    },
    "data": {
        "preparing data": Hold("igerg_jax.data.writer", "_write_text", 2),
        "evaluating": Hold("igerg_jax.evaluation.evaluator", "Evaluator.metrics"),
        "in the final evaluation": Hold("igerg_jax.evaluation.evaluator", "Evaluator.following"),
    },
}


def config_of(kind, data_dir):
    """Of random vectors, or with words and pictures."""
    if kind == "vectors":
        return make_config()
    config = small_runs.with_data(small_runs.make_config(), data_dir)
    config.train.update(steps=LAST_STEP[kind], evaluate_every_steps=2)
    return config


@pytest.fixture(scope="module", params=PHASES)
def uninterrupted(request, data_dir, tmp_path_factory):
    """(the kind of run, the folder of a whole one)."""
    folder = tmp_path_factory.mktemp("whole")
    with small_runs.started(config_of(request.param, data_dir), folder) as (run,):
        assert run.wait() == 0, run.said()
    return request.param, folder


def has_come_to(phase: Hold | str, run: small_runs.Started) -> bool:
    if isinstance(phase, Hold):
        return run.is_held()
    return run.log.exists() and phase in run.said()


def stop(config, folder, phase: Hold | str, number: signal.Signals) -> tuple[int, float]:
    """Stops a start of a run in a phase; returns its exit code, and how many seconds that took."""
    hold = phase if isinstance(phase, Hold) else None
    with small_runs.started(config, folder, hold=hold) as (run,):
        assert run.wait_for(lambda: has_come_to(phase, run)), f"it ended before: {run.said()}"
        run.send(number)
        sent = time.monotonic()
        if number != signal.SIGKILL:
            run.go_on()
        code = run.wait(PATIENCE_SECONDS)
        assert "Traceback" not in run.said(), run.said()
    return code, time.monotonic() - sent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_stop_in_every_phase(number, uninterrupted, tmp_path, tried):
    """Each phase is that of a start of one run, which then equals an uninterrupted one."""
    kind, whole = uninterrupted
    config, folder = config_of(kind, tmp_path / "data"), tmp_path / "stopped"
    killed = number == signal.SIGKILL
    seconds = {}
    for name, phase in PHASES[kind].items():
        code, seconds[name] = stop(config, folder, phase, number)
        # Before main has set its handler, the signal's default ends the process.
        assert code == (-number if killed else 128 + number) or (name, code) == (
            "starting",
            -number,
        ), name
    with small_runs.started(config, folder) as (run,):
        assert run.wait() == 0, run.said()
    assert_equal(folder, whole, LAST_STEP[kind])
    if not killed:
        summary = json.loads((folder / "run" / "summary.json").read_text())
        assert summary["history"]["lost_steps"] == 0
    name = "kill -9" if killed else number.name
    for phase, took in seconds.items():
        tried(f"{name} while {phase}", 128 + number, 1, "resumes, bit for bit", took)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(("kind", "phase"), [("vectors", "compiling"), ("data", "evaluating")])
def test_a_stop_of_one_process_stops_both(kind, phase, index, data_dir, tmp_path, tried):
    """The coordinator's process as well as the other."""
    config, where = config_of(kind, data_dir), PHASES[kind][phase]
    hold = where if isinstance(where, Hold) else None
    with small_runs.started(config, tmp_path, 2, hold) as runs:
        for run in runs if hold else runs[:1]:  # only the first one prints
            assert run.wait_for(lambda run=run: has_come_to(where, run)), run.said()
        runs[index].send(signal.SIGTERM)
        sent = time.monotonic()
        for run in runs:
            run.go_on()
        codes = [run.wait(PATIENCE_SECONDS) for run in runs]
        took = time.monotonic() - sent
        assert codes == [143, 143], "\n".join(run.said() for run in runs)
        assert not any("Traceback" in run.said() for run in runs), runs[0].said()
    with small_runs.started(config, tmp_path, 2) as runs:
        assert [run.wait() for run in runs] == [0, 0], runs[0].said()
    steps = [line["step"] for line in small_runs.figures(tmp_path / "run") if "loss/total" in line]
    assert steps == list(range(1, LAST_STEP[kind] + 1))
    tried(f"SIGTERM to one of two processes while {phase}", 143, 1, "both end; resumes", took)
