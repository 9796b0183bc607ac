"""A long run: its memory and its open files stay what they were."""

import pathlib
import signal
import statistics
import time

import how_often
import pytest
import small_runs
from test_kills import make_config

pytestmark = pytest.mark.slow


def resources(pid: int) -> tuple[float, int]:
    """(resident memory in MB, open files) of a process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    kilobytes = int(status.partition("VmRSS:")[2].split()[0])
    return kilobytes / 1e3, len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


def test_memory_and_files_stay_flat(tmp_path, tried):
    """A line of metrics every step, a checkpoint every 1,000."""
    config = make_config()
    config.train.update(steps=10**7, checkpoint_every_steps=1000)
    with small_runs.started(config, tmp_path) as (run,):
        assert run.wait_for(lambda: len(small_runs.losses(tmp_path / "run")) > 100), run.said()
        samples, end = [], time.monotonic() + how_often.SOAK_SECONDS
        while time.monotonic() < end:
            samples.append(resources(run.process.pid))
            time.sleep(how_often.SOAK_SECONDS / 200)
            assert run.process.is_alive(), run.said()[-3000:]
        run.send(signal.SIGTERM)
        assert run.wait() == 143
    steps = max(small_runs.losses(tmp_path / "run"))
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    memory = [statistics.median(mb for mb, _ in part) for part in (early, late)]
    files = [max(count for _, count in part) for part in (early, late)]
    print(f"{steps} steps, memory {memory} MB, files {files}")
    assert memory[1] < 1.03 * memory[0] + 5, memory
    assert files[1] <= files[0] + 2, files
    tried(
        f"training for {how_often.SOAK_SECONDS / 60:g} minutes",
        143,
        1,
        f"{steps:,} steps; memory {memory[0]:.0f} → {memory[1]:.0f} MB, "
        f"files {files[0]} → {files[1]}",
    )
