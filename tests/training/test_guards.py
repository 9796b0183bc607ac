"""What stands guard around the loop."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

STALL = """
import sys, time
from igerg_jax.training import guards

def a_step_that_hangs():
    time.sleep(2.6)

with guards.watchdog(0) as alive:
    alive()
    time.sleep(0.2)
with guards.watchdog(2) as alive:
    for _ in range(3):  # longer than the limit together, each shorter
        time.sleep(0.8)
        alive()
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
