"""A checkpoint that is damaged is named; training continues from the newest that is intact."""

import contextlib
import json
import os
import pathlib
import shutil

import jax
import pytest
import small
from damage import FAULTS
from etils import epath
from test_checkpoint import DIGEST, make_state, set_up

from igerg_jax import manifests, storage
from igerg_jax.errors import UserError
from igerg_jax.run import integrity
from igerg_jax.run.checkpoint import Checkpoints, check_init, find, load_params, read_run
from igerg_jax.run.integrity import DamagedCheckpoint

STEPS = (3, 6)
# Orbax writes these last and restores without what is in them.
UNLISTED = ("_CHECKPOINT_METADATA", "commit_success.txt")


@pytest.fixture(scope="module")
def setup():
    return set_up(devices=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, setup):
    """A workdir with checkpoints of two steps."""
    folder = tmp_path_factory.mktemp("whole")
    checkpoints = Checkpoints(folder, setup.config, DIGEST)
    for step in STEPS:
        checkpoints.save(make_state(setup, step, seed=step))
    checkpoints.close()
    return folder


@pytest.fixture
def workdir(whole, tmp_path):
    return epath.Path(shutil.copytree(whole, tmp_path / "run"))


def unlist(checkpoint: epath.Path) -> None:
    """Turns a checkpoint into one from before there were checksums."""
    (checkpoint / manifests.FILE).unlink()
    record = json.loads((checkpoint / "run" / "metadata").read_text())
    del record[integrity.PROVENANCE]
    (checkpoint / "run" / "metadata").write_text(json.dumps(record))


def said(capsys) -> list[str]:
    """The lines on stderr, without Orbax's, which a program silences."""
    return [line for line in capsys.readouterr().err.splitlines() if "WARNING:absl" not in line]


def restore(workdir, setup):
    checkpoints = Checkpoints(workdir, setup.config, DIGEST)
    try:
        return checkpoints.restore(setup.abstract_state)
    finally:
        checkpoints.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_every_file_is_found(workdir, fault):
    checkpoint = workdir / "checkpoints" / "6"
    integrity.check(checkpoint)
    files = [checkpoint / name for name in manifests.list_files(checkpoint)]
    assert len(files) > 12
    for path in files:
        before = path.read_bytes()
        FAULTS[fault](path)
        if path.parent == checkpoint and path.name in UNLISTED:
            integrity.check(checkpoint)
        elif path.name == manifests.FILE and fault == "flipped":
            with pytest.raises(DamagedCheckpoint):
                integrity.check(checkpoint)
        else:
            name = path.relative_to(checkpoint)
            with pytest.raises(DamagedCheckpoint, match=rf"checkpoints/6' is damaged: {name}"):
                integrity.check(checkpoint)
        path.write_bytes(before)
    integrity.check(checkpoint)


@pytest.mark.parametrize("damage", ["flipped", "empty folder"])
def test_training_continues_from_the_newest_intact_checkpoint(workdir, setup, capsys, damage):
    newest = workdir / "checkpoints" / "6"
    if damage == "empty folder":
        (workdir / "checkpoints" / "70").mkdir()
        (workdir / "checkpoints" / "70" / "state").mkdir()
        wanted, moved = 6, "70"
    else:
        files = [newest / name for name in manifests.list_files(newest)]
        FAULTS[damage](max(files, key=lambda path: path.stat().length))
        wanted, moved = 3, "6"
    checkpoints = Checkpoints(workdir, setup.config, DIGEST)
    small.assert_trees_equal(
        checkpoints.restore(setup.abstract_state), make_state(setup, wanted, seed=wanted)
    )
    (line,) = said(capsys)
    assert f"checkpoints/{moved}' is damaged" in line and f"continuing from step {wanted}" in line
    assert (workdir / "damaged_checkpoints" / moved).is_dir()
    # What is trained again is saved again, and restored.
    assert checkpoints.save(make_state(setup, 6 if wanted == 3 else 9, seed=9))
    checkpoints.close()
    small.assert_trees_equal(restore(workdir, setup).params, make_state(setup, 9, seed=9).params)
    assert said(capsys) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("state/_METADATA", "emptied"),
        ("state/_METADATA", "removed"),
        ("state/manifest.ocdbt", "removed"),
        ("state/manifest.ocdbt", "cut"),
        ("state/d", "removed"),
        ("run/metadata", "cut"),
        ("run/metadata", "removed"),
        ("run", "removed"),
    ],
)
def test_also_where_there_are_no_checksums(workdir, setup, capsys, name, fault):
    newest = workdir / "checkpoints" / "6"
    unlist(newest)
    if (newest / name).is_dir():
        (newest / name).rmtree()
    else:
        FAULTS[fault](newest / name)
    with pytest.raises(DamagedCheckpoint, match=r"checkpoints/6' (cannot be read|is damaged)"):
        load_params(workdir, setup)
    assert int(restore(workdir, setup).step) == 3
    assert "continuing from step 3" in said(capsys)[-1]


NO_FILES = {
    "a folder": lambda path: path.mkdir(),
    "a link in a circle": lambda path: path.symlink_to(path.name),
    "a pipe": lambda path: os.mkfifo(path),
    "an empty list": lambda path: path.write_text("{}"),
    "another list": lambda path: path.write_text('{"state/_METADATA": {"bytes": "many"}}'),
}


@pytest.mark.parametrize("there", NO_FILES)
@pytest.mark.parametrize("name", [manifests.FILE, "run/metadata", "state/manifest.ocdbt"])
def test_what_is_in_the_place_of_a_file_is_found(workdir, setup, there, name):
    path = pathlib.Path(workdir / "checkpoints" / "6" / name)
    path.unlink()
    NO_FILES[there](path)
    assert int(restore(workdir, setup).step) == 3


@pytest.mark.parametrize("name", ["070", "\u0667\u0660", "70 (copy)", ".70", "1e3", "-7"])
def test_a_folder_of_another_name_is_no_checkpoint(workdir, setup, name):
    """070 and the Arabic digits of 70 are decimal numbers to Python."""
    (workdir / "checkpoints" / name).mkdir()
    (workdir / "checkpoints" / "80").write_text("a file")
    assert int(restore(workdir, setup).step) == 6
    checkpoints = Checkpoints(workdir, setup.config, DIGEST)
    assert checkpoints.save(make_state(setup, 9, seed=9))
    checkpoints.close()


def test_a_checkpoint_from_before_there_were_checksums_is_restored(workdir, setup, capsys):
    unlist(workdir / "checkpoints" / "6")
    small.assert_trees_equal(restore(workdir, setup), make_state(setup, 6, seed=6))
    assert capsys.readouterr().err.count("read unchecked") == 1


def test_metrics_that_are_added_later_are_checked_too(workdir, setup):
    checkpoints = Checkpoints(workdir, setup.config, DIGEST)
    checkpoints.add_metrics(6, {setup.config.evaluate.best_metric: 2.0})
    checkpoints.close()
    newest = workdir / "checkpoints" / "6"
    integrity.check(newest)
    FAULTS["cut"](newest / "metrics" / "metrics")
    with pytest.raises(DamagedCheckpoint, match="metrics/metrics has"):
        integrity.check(newest)
    assert int(restore(workdir, setup).step) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_metrics_of_an_older_checkpoint_stop_nothing(workdir, setup, fault):
    checkpoints = Checkpoints(workdir, setup.config, DIGEST)
    checkpoints.add_metrics(3, {setup.config.evaluate.best_metric: 2.0})
    checkpoints.close()
    FAULTS[fault](workdir / "checkpoints" / "3" / "metrics" / "metrics")
    checkpoints = Checkpoints(workdir, setup.config, DIGEST)
    assert int(checkpoints.restore(setup.abstract_state).step) == 6
    assert checkpoints.save(make_state(setup, 9))
    checkpoints.close()
    assert int(restore(workdir, setup).step) == 9


def test_if_none_is_intact_training_does_not_start_anew(workdir, setup):
    for step in STEPS:
        FAULTS["emptied"](workdir / "checkpoints" / str(step) / "state" / "_METADATA")
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact.*remove that folder"):
        restore(workdir, setup)
    assert integrity.steps(workdir / "checkpoints") == list(STEPS)


@pytest.mark.parametrize("where", ["", "checkpoints", "checkpoints/6"])
def test_who_only_reads_is_told_which_is_damaged_and_which_are_there(workdir, setup, where):
    FAULTS["flipped"](workdir / "checkpoints" / "6" / "state" / "_sharding")
    readers = (
        find,
        lambda path: load_params(path, setup),
        lambda path: check_init(path, setup),  # of a run with this init_from
    )
    for read in readers:
        with pytest.raises(UserError, match=r"checkpoints/6' is damaged: state/_sharding.* \(3\)"):
            read(workdir / where)
    assert find(workdir / "checkpoints" / "3").name == "3"


def test_a_run_of_several_processes_agrees(workdir, monkeypatch):
    """Each sums its share; what one finds, all are told."""
    checkpoint = workdir / "checkpoints" / "6"
    damaged = checkpoint / "run" / "metadata"
    FAULTS["flipped"](damaged)
    told: dict[int, str] = {}
    for index in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "process_count", lambda: 3)
            patch.setattr(jax, "process_index", lambda i=index: i)
            patch.setattr(
                integrity,
                "allgather_text",
                lambda text, i=index: told.__setitem__(i, text) or [text],
            )
            with contextlib.suppress(DamagedCheckpoint):
                integrity.check(checkpoint)
    assert sorted(bool(text) for text in told.values()) == [False, False, True]


def test_storage_knows_a_full_disk():
    assert storage.is_disk_full(OSError(122, "Disk quota exceeded"))
    assert not storage.is_disk_full(OSError(2, "No such file"))
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("a library says") from error
    except RuntimeError as error:
        assert storage.is_disk_full(error)


def test_the_record_says_where_a_checkpoint_comes_from(workdir):
    record = read_run(workdir / "checkpoints" / "6")[integrity.PROVENANCE]
    assert {"command", "commit", "versions", "host", "date"} == record.keys()
    assert record["versions"]["jax"] == jax.__version__
