"""What a file system, a full disk or a bucket refuses: one message, with the place it is about."""

import pytest
from test_main import CONFIG, refused

from igerg_jax.cli import main


def test_a_full_disk_is_one_message(capsys, monkeypatch):
    def fail(values):
        raise RuntimeError("library") from OSError(28, "No space left on device", "/nowhere/x")

    monkeypatch.setattr(main, "run", fail)
    message = refused(capsys, CONFIG)
    assert "disk of '/nowhere/x' is full" in message and "make room" in message


class EventsNotWritten(Exception):
    """As TensorFlow's error of a full disk, which is no OSError."""


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), EventsNotWritten("x; No space left on device\n")],
)
def test_a_disk_that_a_run_fills_is_that_of_its_folder(capsys, monkeypatch, tmp_path, error):
    """Also where the error names no file."""
    from igerg_jax.cli import modes

    def fail(config, workdir):
        raise error

    monkeypatch.setattr(modes, "train", fail)
    message = refused(capsys, CONFIG, f"--workdir={tmp_path}/run")
    assert f"the disk of '{tmp_path}/run' is full" in message and "make room" in message


def test_a_full_disk_that_nothing_names(capsys, monkeypatch):
    def fail(values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(main, "run", fail)
    assert "error: a disk is full; make room" in refused(capsys, CONFIG)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "/x/data"), "'/x/data': Permission denied"),
        (NotADirectoryError(20, "Not a directory", b"/x/y"), "'/x/y': Not a directory"),
        (OSError(30, "Read-only file system", "/x"), "'/x': Read-only file system"),
        (type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})("no\nbucket"), "no bucket"),
    ],
)
def test_what_a_file_system_refuses_is_one_message(capsys, monkeypatch, error, says):
    def fail(values):
        raise error

    monkeypatch.setattr(main, "run", fail)
    assert says in refused(capsys, CONFIG)
