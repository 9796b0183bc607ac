"""A run that hangs, in a step, in its last save or in its final evaluation: it says where, and ends
with `train.stall_ends_run`."""

import time

import pytest
import small_runs
from small_runs import LATE_SECONDS, Hold
from test_kills import make_config

from igerg_jax.errors import ProcessStalled

pytestmark = pytest.mark.slow
STALL_SECONDS = int(small_runs.LIMIT_SECONDS / 6)  # longer than anything else takes
PLACES = {
    "a step": Hold("igerg_jax.training.logs", "StepLog.add", 3),
    "the last save": Hold("igerg_jax.run.integrity", "write_list"),
    "the final evaluation": Hold("igerg_jax.evaluation.evaluator", "Evaluator.following"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_hangs_ends(place, data_dir, tmp_path, tried):
    config = make_config()
    if place == "the final evaluation":
        config = small_runs.with_data(config, data_dir)
    config.train.checkpoint_every_steps = 0
    # Compiling counts as no progress: what this run compiles is in the cache for the next.
    with small_runs.started(config, tmp_path / "whole") as (run,):
        assert run.wait() == 0, run.said()
    config.train.update(stall_seconds=STALL_SECONDS, stall_ends_run=True)
    with small_runs.started(config, tmp_path / "hangs", hold=PLACES[place]) as (run,):
        assert run.wait_for(run.is_held), run.said()
        held = time.monotonic()
        assert run.wait(STALL_SECONDS + LATE_SECONDS) == ProcessStalled.exit_code, run.said()
        seconds = time.monotonic() - held
    *_, last = run.said().splitlines()
    assert last.startswith(
        f"error: process 0 of 1: no step or evaluation batch has ended for {STALL_SECONDS} s"
    ), run.said()
    assert "in waiting" in run.said()  # the call's name in the stacks
    what = f"{place} that hangs, of {STALL_SECONDS} s allowed (stall_ends_run)"
    tried(what, ProcessStalled.exit_code, 1, "ends, and shows where", seconds)
