"""A checkpoint that cannot be written: one message, and nothing printed by threads."""

import sys
import types

import pytest
from etils import epath
from test_checkpoint import DIGEST, make_state, set_up

from igerg_jax import manifests
from igerg_jax.errors import UserError
from igerg_jax.run import failed_saves, integrity
from igerg_jax.run.checkpoint import Checkpoints

FULL = r"disk of .* is full .* while step 9 was saved: a checkpoint takes up to (\S+) MB"
READ_ONLY = "step 9 cannot be saved to .*/checkpoints': Read-only file system"


@pytest.fixture(scope="module")
def setup():
    return set_up(devices=1)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), FULL),
        (ValueError("UNKNOWN: No space left on device"), FULL),
        (OSError(30, "Read-only file system"), READ_ONLY),
        (ValueError("Failed writing [OS error 30: EROFS Read-only file system]"), READ_ONLY),
    ],
)
def test_one_message(setup, tmp_path, monkeypatch, capfd, caplog, error, says):
    def fail(path, without):
        raise error

    checkpoints = Checkpoints(epath.Path(tmp_path), setup.config, DIGEST)
    checkpoints.save(make_state(setup, 6))
    checkpoints.wait()
    monkeypatch.setattr(manifests, "write", fail)
    checkpoints.save(make_state(setup, 9))
    with pytest.raises(UserError, match=rf"{says}\. .*, then repeat .* from step 6$") as raised:
        checkpoints.wait()
    checkpoints.close()
    assert capfd.readouterr().err == ""
    assert [record for record in caplog.records if record.exc_info] == []  # of Orbax's threads
    assert integrity.steps(epath.Path(tmp_path) / "checkpoints") == [6]
    assert not list((tmp_path / "checkpoints").glob("9*"))
    files = (tmp_path / "checkpoints" / "6").rglob("*")
    taken = sum(512 * path.stat().st_blocks for path in files) / 1e6
    if says == FULL:
        assert taken <= float(str(raised.value).split("up to ")[1].split()[0]) + 0.05


def test_an_error_that_the_system_has_no_part_in_is_raised(setup, tmp_path, monkeypatch):
    def fail(path, without):
        raise TypeError("a mistake")

    checkpoints = Checkpoints(epath.Path(tmp_path), setup.config, DIGEST)
    monkeypatch.setattr(manifests, "write", fail)
    checkpoints.save(make_state(setup, 9))
    with pytest.raises(TypeError, match="a mistake"):
        checkpoints.close()


def test_only_what_comes_of_a_closed_loop_is_silenced(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    failed_saves.silence_threads.cache_clear()
    failed_saves.silence_threads()
    sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed")))
    other = types.SimpleNamespace(exc_value=RuntimeError("another"))
    sys.unraisablehook(other)
    assert seen == [other]
