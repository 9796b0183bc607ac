"""What stands guard around the loop."""

import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest
from small_runs import LIMIT_SECONDS

ROOT = pathlib.Path(__file__).parents[2]

STALL = """
import sys, time
from igerg_jax.parallel import stopping
from igerg_jax.training import guards

def a_step_that_hangs():
    time.sleep(2.6)

stop = stopping.Stop()
with guards.watchdog(stop, 0, False):
    stop.check()
    time.sleep(0.2)
with guards.watchdog(stop, 2, len(sys.argv) > 1):
    for _ in range(3):  # longer than the limit together, each shorter
        time.sleep(0.8)
        stop.check()
    print("steps are done", file=sys.stderr, flush=True)
    a_step_that_hangs()
print("the loop is over", file=sys.stderr, flush=True)
time.sleep(2.2)
"""


class Ended(NamedTuple):
    code: int
    stderr: str


@pytest.fixture(scope="module")
def ended() -> dict[str, Ended]:
    """The program with and without the argument, both at once: they wait more than they compute."""
    started = {
        argument: subprocess.Popen(
            [sys.executable, "-c", STALL, *argument.split()],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argument in ("", "ends_run")
    }
    try:
        said = {name: one.communicate(timeout=LIMIT_SECONDS)[1] for name, one in started.items()}
    finally:
        for one in started.values():
            one.kill()
    return {name: Ended(one.returncode, said[name]) for name, one in started.items()}


def test_the_watchdog_says_where_a_step_hangs(ended):
    """Not while steps end in time, nor when the loop is over."""
    code, stderr = ended[""]
    assert code == 0, stderr
    before, rest = stderr.split("steps are done")
    during, after = rest.split("the loop is over")
    assert "Timeout" not in before + after
    assert "Timeout" in during and "in a_step_that_hangs" in during


def test_a_stalled_run_ends_where_it_is_asked_to(ended):
    code, stderr = ended["ends_run"]
    assert code == 6, stderr
    *_, last = stderr.splitlines()
    assert "in a_step_that_hangs" in stderr
    assert last.startswith("error: process 0 of 1: no step or evaluation batch has ended for 2 s")
