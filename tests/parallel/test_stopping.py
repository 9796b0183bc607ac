"""What a process does when it is told to stop, whatever it is doing."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from igerg_jax.parallel import stopping

ROOT = pathlib.Path(__file__).parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_of_a_loop_a_signal_raises(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(SystemExit) as stopped, stopping.signals():
        os.kill(os.getpid(), number)
        time.sleep(5)
        pytest.fail("it went on")
    assert stopped.value.code == 128 + number
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_loop_a_signal_is_a_flag(number):
    with stopping.signals() as stop, stop.loop(lambda: None):
        assert stop.check() is None
        stop.raise_if_stopping()
        os.kill(os.getpid(), number)
        time.sleep(0.2)
        assert stop.check() == number
        with pytest.raises(stopping.Stopped):
            stop.raise_if_stopping()


def test_where_what_is_raised_is_ignored_it_is_raised_later():
    """Also where the function that ignores it has called others."""

    def called():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)  # the next signal comes within it
        seen.append("not interrupted")

    class Ignoring:
        def __del__(self):
            called()

    seen = []
    with pytest.raises(SystemExit), stopping.signals():
        ignoring = Ignoring()
        del ignoring
        time.sleep(5)
        pytest.fail("it went on")
    assert seen == ["not interrupted"]


def test_nohup_holds():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.signals() as stop, stop.loop(lambda: None):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.2)
            assert stop.check() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# A run that says something at each step.
TALKS = """
import fcntl, sys, termios, time
from igerg_jax import environment
from igerg_jax.parallel import stopping

def main(argv):
    if sys.stdin.isatty():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # a session's own terminal: closing it sends SIGHUP
    with stopping.signals() as stop, stop.loop(lambda: None):
        while (number := stop.check()) is None:
            print("a step", file=sys.stderr)
            time.sleep(0.01)
        time.sleep(1)  # it says meanwhile what it was told
        print("saving", file=sys.stderr)
        open(argv[1], "w").close()
        raise stopping.Stopped(number)

environment.run(main)
"""


def test_a_reader_that_ends_too_keeps_nothing_from_being_saved(tmp_path):
    """As of `2>&1 | tee log`, where Ctrl-C ends tee first."""
    command = [sys.executable, "-c", TALKS, tmp_path / "saved"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        assert process.stderr.readline() == b"a step\n"
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert (tmp_path / "saved").exists()


def test_a_closed_terminal_keeps_nothing_from_being_saved(tmp_path):
    ours, its = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TALKS, tmp_path / "saved"],
        cwd=ROOT,
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    assert os.read(ours, 6) == b"a step"
    os.close(ours)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert (tmp_path / "saved").exists()


def test_whoever_asks_again_gets_the_same():
    with stopping.signals() as outer, stopping.signals() as inner:
        assert outer is inner


# A call that returns after hours and runs no signal handler meanwhile, as one into XLA.
BUSY = """
import hashlib, sys
from igerg_jax.parallel import stopping

def work():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha512", b"x", b"x", 2 * 10**9)

with stopping.signals() as stop:
    if sys.argv[1] == "free":
        work()
    with stop.loop(lambda: print("saves are finished", flush=True)):
        if sys.argv[1] == "unsaved":
            work()
        with stop.nothing_to_save():
            work()
"""


@pytest.fixture
def busy():
    """Starts a process in a phase of a run; it does not outlive the test."""
    started = []

    def start(phase: str) -> subprocess.Popen:
        started.append(_start(phase))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def _start(phase: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, phase], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "busy\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", ["free", "saved"])
def test_a_call_that_takes_long_is_cut_short_where_nothing_is_lost(busy, phase, number):
    process = busy(phase)
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    said = "saves are finished\n" if phase == "saved" else ""
    assert process.stdout.read() == said


@pytest.mark.slow
def test_what_is_not_saved_is_kept_until_a_second_interrupt(busy):
    process = busy("unsaved")
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)  # one press, by two ways
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=8)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) in [128 + number for number in SIGNALS]  # whichever was first
