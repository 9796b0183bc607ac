"""A training process that is stopped, missing, or kept from its port: one line, and an end."""

import signal
import socket

import pytest
import small_runs
from test_kills import make_config

from igerg_jax.errors import PortTaken, ProcessEnded, ProcessMissing, ProcessStalled

pytestmark = pytest.mark.slow
SILENCE_SECONDS = 20


@pytest.mark.parametrize("index", [0, 1])
def test_a_stalled_process_is_named(index, tmp_path, tried):
    """SIGSTOP in the midst of training."""
    config = make_config()
    config.train.update(steps=10**6, checkpoint_every_steps=0)
    settings = {"heartbeat_timeout_seconds": SILENCE_SECONDS}
    with small_runs.started(config, tmp_path, 2, **settings) as runs:
        lost, other = runs[index], runs[1 - index]
        assert runs[0].wait_for(lambda: len(small_runs.losses(tmp_path / "run")) > 2)
        lost.send(signal.SIGSTOP)
        assert (
            other.wait(SILENCE_SECONDS + small_runs.LIMIT_SECONDS / 2) == ProcessStalled.exit_code
        ), other.said()
        *_, last = other.said().splitlines()
        assert last.startswith(f"error: process {index} of 2 (")
        assert f"pid {lost.process.pid})" in last and "has not answered" in last
        lost.send(signal.SIGCONT)
    tried("a process that is stopped (SIGSTOP)", ProcessStalled.exit_code, 1, "named; all end")


@pytest.mark.parametrize("index", [0, 1])
def test_a_killed_process_is_named(index, tmp_path, tried):
    """kill -9 in the midst of training, the coordinator's process as well as the other."""
    config = make_config()
    config.train.update(steps=10**6, checkpoint_every_steps=0)
    with small_runs.started(config, tmp_path, 2) as runs:
        lost, other = runs[index], runs[1 - index]
        assert runs[0].wait_for(lambda: len(small_runs.losses(tmp_path / "run")) > 2)
        before = other.said()
        lost.send(signal.SIGKILL)
        assert other.wait() == ProcessEnded.exit_code, other.said()
        (line,) = [
            line
            for line in other.said().removeprefix(before).splitlines()
            if not line.startswith("step ")
        ]
        assert line.startswith(f"error: process {index} of 2 (")
        assert f"pid {lost.process.pid}) has ended" in line
    tried("kill -9 of one of two processes", f"137, {ProcessEnded.exit_code}", 1, "named; all end")


def test_a_missing_process_is_named(tmp_path, tried):
    settings = {"initialization_timeout_seconds": 20}
    with small_runs.started(make_config(), tmp_path, 2, **settings) as (host, missing):
        missing.process.kill()
        assert host.wait() == ProcessMissing.exit_code, host.said()
        *_, last = host.said().splitlines()
        assert "no word from process 1" in last or "process 1 of 2" in last, last
    tried("a process that never comes", ProcessMissing.exit_code, 1, "named; all end")


def test_a_taken_port_is_named(tmp_path, tried):
    settings = {"initialization_timeout_seconds": 20}
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        settings["coordinator_address"] = f"127.0.0.1:{port}"
        with small_runs.started(make_config(), tmp_path, 2, **settings) as (host, _):
            assert host.wait() == PortTaken.exit_code, host.said()
            assert f"cannot listen on port {port} (Address already in use)" in host.said()
    tried("the coordinator's port is in use", PortTaken.exit_code, 1, "named; all end")
