"""Processes that are killed, stopped, or kept from their port: one line and an exit code."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from igerg_jax.errors import PortTaken, ProcessEnded, ProcessStalled
from igerg_jax.parallel import processes, watch

ROOT = pathlib.Path(__file__).parents[2]
SILENCE_SECONDS = 6
MEET = f"""
import sys, time
from igerg_jax.parallel import processes
from ml_collections import ConfigDict
index, seconds = int(sys.argv[2]), float(sys.argv[3])
processes.start(ConfigDict(dict(
    cluster="none", coordinator_address=sys.argv[1], process_count=2, process_index=index,
    initialization_timeout_seconds=100, heartbeat_timeout_seconds={SILENCE_SECONDS})))
print("up", flush=True)
"""
PROCESS = f"""{MEET}
if len(sys.argv) > 4 and index == 0:  # holds Python's lock
    import ctypes
    ctypes.PyDLL(None).sleep(int(sys.argv[4]))
end = time.monotonic() + seconds
while time.monotonic() < end:  # as `stopping` asks for signals of others
    try:
        processes.client().key_value_try_get("nothing")
    except Exception as error:
        assert "NOT_FOUND" in str(error), error
    time.sleep(0.1)
print("leaves", flush=True)
"""


# Process 1 fails; the other waits for it in a collective, which then fails too.
FAILING = f"""{MEET}
from absl import flags
from jax.experimental import multihost_utils
from igerg_jax.cli import main
from igerg_jax.errors import RunError
from igerg_jax.run import command_line

def run(argv):
    with processes.failures_explained({SILENCE_SECONDS}):
        multihost_utils.sync_global_devices("both")
        if index == 1:
            raise {{}}
        multihost_utils.sync_global_devices("process 1 does not come")

sys.exit(command_line.main(
    sys.argv, "", lambda argv: flags.FlagValues(), run, main.exit_without_waiting))
"""


def two(seconds: tuple[float, float], *more: str, program: str = PROCESS) -> list[subprocess.Popen]:
    """Two processes of a run, which have met, and end after so many seconds each."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        address = f"127.0.0.1:{found.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(index), str(seconds[index]), *more],
            cwd=ROOT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for process in started:
        assert process.stdout.readline() == "up\n"
    return started


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("sent", "kind", "says"),
    [(signal.SIGKILL, ProcessEnded, "has ended"), (signal.SIGSTOP, ProcessStalled, "not answered")],
)
def test_the_other_names_who_is_lost_and_ends(index, sent, kind, says):
    started = two((90, 90))
    lost, other = started[index], started[1 - index]
    time.sleep(1)  # until the other has heard who it is
    lost.send_signal(sent)
    try:
        _, said = other.communicate(timeout=SILENCE_SECONDS + 15)
        assert other.returncode == kind.exit_code, said
        assert said.startswith(f"error: process {index} of 2 (") and said.count("\n") == 1
        assert f"pid {lost.pid}) has" in said and says in said
        assert "it resumes from its newest checkpoint" in said
    finally:
        for process in started:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "says", "lines"),
    [
        ("RunError('its disk is broken')", "error: its disk is broken", 1),
        ("ValueError('a mistake')", "ValueError: a mistake", None),  # with its traceback
    ],
)
def test_a_process_that_fails_says_why_and_the_other_that_it_has_ended(error, says, lines):
    """The other's own failure, which follows from that, is not shown."""
    other, failing = started = two((0, 0), program=FAILING.format(error))
    try:
        said = [process.communicate(timeout=90)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert (failing.returncode, other.returncode) == (1, ProcessEnded.exit_code), said
    assert said[1].splitlines()[-1] == says and lines in (None, said[1].count("\n")), said[1]
    assert said[0].startswith("error: process 1 of 2 (") and said[0].count("\n") == 1, said[0]
    assert f"pid {failing.pid}) has ended: its own output shows why" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [(1, 9), (9, 1)])
def test_a_process_that_has_done_its_part_is_not_lost(seconds):
    """However long the other goes on."""
    for process in two(seconds):
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_is_killed_while_it_waits_to_leave_is_named(index):
    """It has said goodbye, and the other has not: JAX would abort that one minutes later."""
    started = two((1, 90) if index == 0 else (90, 1))
    lost, other = started[index], started[1 - index]
    try:
        assert lost.stdout.readline() == "leaves\n"
        time.sleep(2)  # until its goodbye has arrived
        lost.kill()
        _, said = other.communicate(timeout=SILENCE_SECONDS + 15)
        assert other.returncode == ProcessEnded.exit_code, said
        assert said.startswith(f"error: process {index} of 2 (") and said.count("\n") == 1
        assert f"pid {lost.pid}) has ended" in said
    finally:
        for process in started:
            process.kill()


@pytest.mark.slow
def test_a_process_that_holds_pythons_lock_is_not_stalled():
    for process in two((1, 3 * SILENCE_SECONDS), str(2 * SILENCE_SECONDS)):
        _, said = process.communicate(timeout=90)
        assert (process.returncode, said) == (0, "")


def test_a_port_that_is_in_use_is_named():
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")):
        with socket.create_server((host, 0), family=family) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(PortTaken, match=f"port {port} .Address already in use.: end what"):
                processes._check_free(port)
    processes._check_free(port)  # free again


def test_the_relay_forwards_and_outlives_the_coordinator():
    """So that the watch, and not JAX's client, tells its end."""
    with socket.create_server(("127.0.0.1", 0)) as coordinator:
        host, port = watch.relay(f"127.0.0.1:{coordinator.getsockname()[1]}").split(":")
        client = socket.create_connection((host, int(port)))
        there = coordinator.accept()[0]
        for sender, receiver in ((client, there), (there, client)):
            for data in (b"x" * 300_000, b"end"):
                thread = threading.Thread(target=sender.sendall, args=(data,))
                thread.start()
                received = b""
                while len(received) < len(data):
                    received += receiver.recv(1 << 16)
                thread.join()
                assert received == data
        there.close()
        for _ in range(5):  # the first that the coordinator cannot get makes it reset
            client.sendall(b"heartbeat")
            time.sleep(0.05)
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.close()


def test_the_relay_tells_the_coordinator_when_a_client_ends():
    with socket.create_server(("127.0.0.1", 0)) as coordinator:
        host, port = watch.relay(f"127.0.0.1:{coordinator.getsockname()[1]}").split(":")
        client = socket.create_connection((host, int(port)))
        there = coordinator.accept()[0]
        there.settimeout(20)
        client.sendall(b"x")
        assert there.recv(1) == b"x"
        client.close()
        assert there.recv(1) == b""
        there.close()
