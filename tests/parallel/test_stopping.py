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
SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
