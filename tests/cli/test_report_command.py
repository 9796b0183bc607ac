"""`igerg report`: the page of any folder, or one message."""

import errno
import os
import pathlib

import made_up_run
import pytest

from igerg_jax import storage
from igerg_jax.cli import igerg


@pytest.fixture
def workdir(tmp_path):
    made_up_run.fill(tmp_path)
    return tmp_path


def test_it_names_the_page(workdir, capsys):
    assert igerg.main(["igerg", "report", str(workdir)]) == 0
    assert capsys.readouterr().out == f"{workdir / 'report.html'}\n"
    assert "made-up run" in (workdir / "report.html").read_text("utf-8")


def test_a_folder_whose_name_is_no_text_has_a_report(tmp_path, capsys):
    workdir = tmp_path / os.fsdecode(b"caf\xe9")
    workdir.mkdir()
    assert igerg.main(["igerg", "report", str(workdir)]) == 0
    assert r"caf\udce9" in (workdir / "report.html").read_text("utf-8")
    assert "caf?/report.html" in capsys.readouterr().out


def fails_with(number: int):
    def write(path, text):
        raise OSError(number, os.strerror(number), str(path))

    return write


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EROFS, "report.html': Read-only file system"),
        (errno.EACCES, "report.html': Permission denied"),
        (errno.ENOSPC, "is full"),
    ],
)
def test_what_the_disk_refuses_is_one_message(workdir, capsys, monkeypatch, number, says):
    monkeypatch.setattr(storage, "write_text", fails_with(number))
    assert igerg.main(["igerg", "report", str(workdir)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and says in err and err.count("\n") == 1


def test_a_folder_in_the_place_of_the_page_is_one_message(workdir, capsys):
    (workdir / "report.html").mkdir()
    assert igerg.main(["igerg", "report", str(workdir)]) == 2
    assert capsys.readouterr().err == f"error: '{workdir}/report.html': Is a directory\n"
    assert not list(pathlib.Path(workdir).glob(f"{storage.UNFINISHED}*"))
