"""A training process that is stopped, missing, or kept from its port: one line, and an end."""

import signal
import socket
import time

import pytest
import small_runs
from small_runs import LATE_SECONDS
from test_kills import make_config

from igerg_jax.errors import PortTaken, ProcessEnded, ProcessMissing, ProcessStalled
from igerg_jax.parallel import watch

pytestmark = pytest.mark.slow
SILENCE_SECONDS = 20
MEETING_SECONDS = 20


def end_of(run: small_runs.Started, configured: float) -> tuple[int, float]:
    """(the exit code of a process that is to end so many seconds from now, when it did)."""
    began = time.monotonic()
    code = run.wait(configured + LATE_SECONDS)
    return code, time.monotonic() - began


def in_training(runs: list[small_runs.Started], folder) -> bool:
    return runs[0].wait_for(lambda: len(small_runs.losses(folder / "run")) > 2)


def endless():
    config = make_config()
    config.train.update(steps=10**6, checkpoint_every_steps=0)
    return config


@pytest.mark.parametrize("index", [0, 1])
def test_a_stalled_process_is_named(index, tmp_path, tried):
    """SIGSTOP in the midst of training. Once it goes on, it ends too."""
    settings = {"heartbeat_timeout_seconds": SILENCE_SECONDS}
    with small_runs.started(endless(), tmp_path, 2, **settings) as runs:
        lost, other = runs[index], runs[1 - index]
        assert in_training(runs, tmp_path)
        lost.send(signal.SIGSTOP)
        code, seconds = end_of(other, SILENCE_SECONDS)
        assert code == ProcessStalled.exit_code, other.said()
        *_, last = other.said().splitlines()
        assert other.said().count("error:") == 1 and last.startswith(
            f"error: process {index} of 2 ("
        )
        assert f"pid {lost.process.pid})" in last and "has not answered" in last
        lost.send(signal.SIGCONT)
        code, _ = end_of(lost, watch.GRACE_SECONDS)
        assert code in (ProcessEnded.exit_code, ProcessStalled.exit_code), lost.said()
    what = f"a process that is stopped (SIGSTOP), of {SILENCE_SECONDS} s of silence allowed"
    tried(what, ProcessStalled.exit_code, 1, "named; all end", seconds)


@pytest.mark.parametrize("index", [0, 1])
def test_a_killed_process_is_named(index, tmp_path, tried):
    """kill -9 in the midst of training, the coordinator's process as well as the other."""
    with small_runs.started(endless(), tmp_path, 2) as runs:
        lost, other = runs[index], runs[1 - index]
        assert in_training(runs, tmp_path)
        before = other.said()
        lost.send(signal.SIGKILL)
        code, seconds = end_of(other, watch.GRACE_SECONDS)
        assert code == ProcessEnded.exit_code, other.said()
        (line,) = [
            line
            for line in other.said().removeprefix(before).splitlines()
            if not line.startswith("step ")
        ]
        assert line.startswith(f"error: process {index} of 2 (")
        assert f"pid {lost.process.pid}) has ended" in line
    what, codes = "kill -9 of one of two processes in training", f"137, {ProcessEnded.exit_code}"
    tried(what, codes, 1, "named; all end", seconds)


def test_a_missing_process_is_named(tmp_path, tried):
    settings = {"initialization_timeout_seconds": MEETING_SECONDS}
    with small_runs.started(make_config(), tmp_path, 2, **settings) as (host, missing):
        missing.process.kill()
        assert host.wait_for(host.log.exists)  # it has been forked
        code, seconds = end_of(host, MEETING_SECONDS)
        assert code == ProcessMissing.exit_code, host.said()
        *_, last = host.said().splitlines()
        assert "no word from process 1" in last or "process 1 of 2" in last, last
        assert host.said().count("error:") == 1 and "process 0 of 2" in last
    what = f"a process that never comes, of {MEETING_SECONDS} s allowed"
    tried(what, ProcessMissing.exit_code, 1, "named; all end", seconds)


def test_a_taken_port_is_named(tmp_path, tried):
    settings = {"initialization_timeout_seconds": MEETING_SECONDS}
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        settings["coordinator_address"] = f"127.0.0.1:{port}"
        with small_runs.started(make_config(), tmp_path, 2, **settings) as (host, other):
            assert host.wait_for(host.log.exists)
            code, seconds = end_of(host, 0)
            assert code == PortTaken.exit_code, host.said()
            assert f"cannot listen on port {port} (Address already in use)" in host.said()
            assert host.said().count("error:") == 1 and "process 0 of 2" in host.said()
            code, _ = end_of(other, MEETING_SECONDS)
            assert code in (ProcessEnded.exit_code, ProcessMissing.exit_code), other.said()
            assert other.said().count("error:") == 1 and "process 1 of 2" in other.said()
    tried("the coordinator's port is in use", PortTaken.exit_code, 1, "named; all end", seconds)
