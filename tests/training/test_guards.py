"""What stands guard around the loop."""

import pathlib
import subprocess
import sys

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


def test_the_watchdog_says_where_a_step_hangs():
    """Not while steps end in time, nor when the loop is over."""
    command = [sys.executable, "-c", STALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    before, rest = done.stderr.split("steps are done")
    during, after = rest.split("the loop is over")
    assert "Timeout" not in before + after
    assert "Timeout" in during and "in a_step_that_hangs" in during


def test_a_stalled_run_ends_where_it_is_asked_to():
    command = [sys.executable, "-c", STALL, "ends_run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 6, done.stderr
    *_, last = done.stderr.splitlines()
    assert "in a_step_that_hangs" in done.stderr
    assert last.startswith("error: process 0 of 1: no step or evaluation batch has ended for 2 s")
