"""Raw files that arrive or change after a dataset was prepared are reported; nothing else is."""

import os
import pathlib
import re
import shutil

import pytest
import raw_data

from igerg_jax.data import prepare, raw_files
from igerg_jax.data.builders.source import Options

ROOT = pathlib.Path(__file__).parents[2]
CHANGED = "has changed since it was prepared"


@pytest.fixture
def meld(tmp_path, monkeypatch, capsys):
    """(MELD's folder, a call that returns exit code and stderr of `igerg prepare`)."""
    monkeypatch.chdir(ROOT)
    raw_data.meld(tmp_path / "raw", dialogues=20)

    def called() -> tuple[int, str]:
        code = prepare.main(
            [
                "prepare",
                "--config=configs/pretrain.py",
                "--config.data.dataset=meld",
                "--config.data.tokenizer.model_type=bpe",
                "--config.data.tokenizer.vocab_size=290",
                f"--manual_dir={tmp_path / 'raw'}",
                f"--data_dir={tmp_path / 'data'}",
            ]
        )
        return code, capsys.readouterr().err

    return tmp_path / "raw" / "MELD.Raw", called


def test_a_split_that_arrives_later_is_reported_and_prepared_as_told(meld, tmp_path):
    folder, called = meld
    (folder / "train_sent_emo.csv").rename(tmp_path / "later.csv")
    code, err = called()
    assert code == 2 and "no split 'train' (config.data.train_split)" in err
    (tmp_path / "later.csv").rename(folder / "train_sent_emo.csv")
    code, err = called()
    told = re.search(r"meld: '.*train_sent_emo.csv'.* changed .* remove '(.*)' to prepare", err)
    assert code == 2 and f"arrived later, remove '{told[1]}' to prepare them" in err
    shutil.rmtree(told[1])
    assert called()[0] == 0
    assert CHANGED not in called()[1]


def test_changes_of_meld_are_reported_without_failing(meld):
    folder, called = meld
    assert called()[0] == 0
    (folder.parent / "another.csv").write_text("not MELD's")
    (folder / ".hidden").write_text("")
    assert called() == (0, "")
    table = folder / "dev_sent_emo.csv"
    os.utime(table, ns=(0, 0))
    code, err = called()
    assert code == 0 and err.count(CHANGED) == 1 and "dev_sent_emo.csv'" in err
    for note in folder.parent.parent.glob(f"data/**/{raw_files.FILE}"):  # of an earlier version
        note.rename(note.with_suffix(".bak"))
        (note.parent / "files.json").write_text(
            (note.parent / "files.json").read_text().replace(note.name, f"{note.stem}.bak")
        )
    assert called() == (0, "")


def test_folders_of_many_images_are_noted_by_their_time(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "_MAX_ENTRIES", 8)
    joy = tmp_path / "faces" / "train" / "joy"
    for number in range(20):
        raw_data.put(joy / f"{number}.jpg", b"")
    raw_data.put(tmp_path / "other" / "1.jpg", b"")
    options = Options("unused", str(tmp_path), "", 0.0)
    before = raw_files.facts("emotion_folder/faces", options)
    assert list(before) == ["faces/train/joy/"]
    os.utime(joy, ns=(0, 0))  # as if an image had arrived
    assert raw_files.facts("emotion_folder/faces", options) != before
    assert raw_files.facts("emotion_folder/faces", Options("unused", "", "", 0.0)) == {}
