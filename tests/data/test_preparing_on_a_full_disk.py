"""Preparing on a disk that fills up: it says how much is needed, and goes on from there."""

import errno
import re
import shutil
import types

import pytest
import raw_data

from igerg_jax import storage
from igerg_jax.data import parts, prepare, store, writer
from igerg_jax.errors import UserError

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def configured(tiny_config, tmp_path, monkeypatch):
    """(folder of prepared data) -> a config: 32 turns and 28 faces in parts of 8."""
    monkeypatch.setattr(writer, "PART_TURNS", 8)
    monkeypatch.setattr(writer, "PART_IMAGES", 8)
    raw_data.meld(tmp_path / "raw", dialogues=6)
    raw_data.fer_zip(tmp_path / "raw")
    data = tiny_config.data
    data.update(dataset="paired/meld+fer2013", manual_dir=str(tmp_path / "raw"), prepare_workers=1)
    data.tokenizer.update(model_type="bpe", vocab_size=285)

    def config(name):
        copy = tiny_config.copy_and_resolve_references()
        copy.data.data_dir = str(tmp_path / name)
        return copy

    return config


def files(folder):
    others = ("lock", "checked.json")
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in others)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def fill_at(monkeypatch, module, function, where, but_not):
    """Has the disk full at each call of a function with `where` in its path, and not `but_not`."""
    original = getattr(module, function)

    def full(path, *arguments):
        if where in path.as_posix() and but_not not in path.as_posix():
            raise FULL
        return original(path, *arguments)

    monkeypatch.setattr(module, function, full)


# What is written when the disk is full: (module, function, part of its first argument), and how
# many parts are done by then, of how many.
PLACES = {
    "a part of the text": ((parts, "save_npz", "train/text-00001.npz"), 1, 7),
    "a column of the turns": ((store, "merge_columns", "turns.partial/valid"), 7, 7),
    "the summary": ((storage, "write_text", "turns.partial/summary.json"), 7, 7),
    "the list of the turns": ((storage, "write_text", "turns.partial/files.json"), 7, 7),
    "a part of the words": ((parts, "save_npz", "train/tokens-00001.npz"), 1, 4),
    "the list of the words": ((storage, "write_text", ".partial/files.json"), 4, 4),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_is_said_with_what_is_needed_and_costs_nothing(configured, monkeypatch, place):
    (module, function, where), done, total = PLACES[place]
    words = "words" in place  # the turns are written by then
    whole = prepare.prepare(configured("whole"))
    with monkeypatch.context() as patched:
        fill_at(patched, module, function, where, but_not="turns.partial" if words else "nothing")
        with pytest.raises(UserError) as error:
            prepare.prepare(configured("full"))
    said = re.fullmatch(
        r"the disk of '.*\.partial' is full \(.* MB are free\) while (tokenising|preparing paired)"
        rf".*: {done} of {total} parts are written and take [\d.,]+ MB; the rest needs over "
        r"[\d.,]+ MB\. Make room, then repeat the command: what is finished is kept",
        str(error.value),
    )
    assert said and (said[1] == "tokenising") == words, error.value
    written, save = [], parts.save_npz
    monkeypatch.setattr(parts, "save_npz", lambda path, a: (written.append(path), save(path, a)))
    again = prepare.prepare(configured("full"))
    assert files(again.folder.parent) == files(whole.folder.parent)
    assert sum(("tokens" in path.name) == words for path in written) == total - done


@pytest.mark.parametrize(("free", "needed"), [(10**6, "240 MB"), (10**9, "1,000 MB")])
def test_the_need_is_that_of_the_other_parts_but_more_than_is_free(
    tmp_path, monkeypatch, free, needed
):
    for number in range(2):
        raw_data.put(tmp_path / "parts" / "train" / f"{number}.npz", bytes(30_000_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=free))
    with (
        pytest.raises(UserError, match=f"2 of 10 .* take 60 MB; the rest needs over {needed}"),
        parts.naming_a_full_disk(tmp_path, "preparing", 10),
    ):
        raise FULL
    with pytest.raises(PermissionError), parts.naming_a_full_disk(tmp_path, "preparing", 10):
        raise PermissionError(errno.EACCES, "Permission denied")
