"""A disk that fills up while checkpoints are written: one line, and the run goes on with room."""

import subprocess
import sys

import pytest
import small_runs
from test_kills import assert_equal, make_config

pytestmark = pytest.mark.slow
# A small disk in memory, seen by this script alone; then the same disk with more room.
SCRIPT = """
mount -t tmpfs -o size=700k none "$1" || exit 99
cd "$2"; shift 2
"$@"; echo "full $?"
mount -o remount,size=64m "$OLDPWD"
"$@"; echo "larger $?"
cp -r "$OLDPWD" "$OLDPWD-kept"
"""


def test_a_full_disk_costs_no_finished_checkpoint(tmp_path, tried):
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"])
    if probe.returncode:
        pytest.skip("this user may not mount a file system of its own (unshare -rm)")
    config = make_config()
    config.train.update(keep_checkpoints=100, checkpoint_every_steps=1)
    with small_runs.started(config, tmp_path / "whole") as (run,):
        assert run.wait() == 0, run.said()
    disk = tmp_path / "run"
    disk.mkdir()
    command = small_runs.command(config, tmp_path)
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", SCRIPT, "bash", disk, small_runs.ROOT, *command],
        cwd=disk,
        env=small_runs.without_tensorflow(tmp_path / "env")
        | {"XLA_FLAGS": sys.modules["os"].environ["XLA_FLAGS"].replace("count=8", "count=1")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split("\n")[:2] == ["full 2", "larger 0"], done.stderr[-3000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "the disk of" in line and "is full" in line and "continues from step" in line
    assert "Traceback" not in done.stderr
    (tmp_path / "kept").mkdir()
    (tmp_path / "run-kept").rename(tmp_path / "kept" / "run")
    assert_equal(tmp_path / "kept", tmp_path / "whole")
    tried("a full disk while saving", 2, 1, "says how much is needed; resumes, bit for bit")
