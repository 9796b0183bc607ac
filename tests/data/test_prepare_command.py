"""`igerg prepare`: what it prints and refuses, a real kill, what it verifies."""

import functools
import json
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import raw_data
from ml_collections import ConfigDict

from igerg_jax.data import parts, prepare, writer
from igerg_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "--config=configs/pretrain.py"
SMALL = (
    CONFIG,
    "--config.data.dataset=paired/meld+fer2013",
    "--config.data.tokenizer.model_type=bpe",
    "--config.data.tokenizer.vocab_size=290",
)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def raw(tmp_path):
    """MELD of 160 turns and 112 faces."""
    raw_data.meld(tmp_path / "raw", dialogues=38)
    raw_data.fer_zip(tmp_path / "raw", raw_data.fer_names(8))
    return f"--manual_dir={tmp_path / 'raw'}", f"--data_dir={tmp_path / 'data'}"


def called(capsys, *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    code = prepare.main(["prepare", *arguments])
    return code, *capsys.readouterr()


def test_prepares_prints_and_verifies(raw, capsys, tmp_path):
    code, out, _ = called(capsys, *SMALL, *raw)
    assert code == 0
    train = next(line.split() for line in out.splitlines() if " train " in line)
    assert train == ["paired/meld+fer2013", "train", "152", "114", "56", "0", "0", "152"]
    before = files(tmp_path / "data")
    code, out, err = called(capsys, *SMALL, *raw, "--verify")
    assert (code, out) == (0, "verified 1 dataset\n"), err
    assert files(tmp_path / "data") == before


def test_a_vocabulary_that_the_words_do_not_fill_is_one_line(raw, capsys):
    code, out, err = called(capsys, *SMALL, *raw, "--config.data.tokenizer.vocab_size=5000")
    *progress, last = err.splitlines()
    assert code == 2 and "verified" not in out
    assert last.startswith("error: cannot train a SentencePiece model (config.data.tokenizer: ")
    assert "vocab_size=5000" in last and "value <= " in last
    assert not [line for line in progress if "rror" in line]


def test_verify_names_what_is_damaged_and_deletes_nothing(raw, capsys, tmp_path):
    code, _, err = called(capsys, *SMALL, *raw, "--verify")
    assert code == 2 and "'paired/meld+fer2013' is not prepared" in err
    assert not (tmp_path / "data").exists()
    called(capsys, *SMALL, *raw)
    (shard,) = (tmp_path / "data").rglob("valid/images-*.array_record")
    flipped = bytearray(shard.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    shard.write_bytes(flipped)
    (tokens,) = (tmp_path / "data").rglob("train/tokens.npy")
    tokens.write_bytes(tokens.read_bytes()[:-4])
    damaged = files(tmp_path / "data")
    code, out, err = called(capsys, *SMALL, *raw, "--verify")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert f"{shard} differs from what was written" in err and f"{tokens} has " in err
    assert files(tmp_path / "data") == damaged


@pytest.mark.parametrize(("model_type", "ids"), [("unigram", 286), ("bpe", 290)])
def test_a_tokenizer_alone_is_found_by_the_config_and_by_its_path(raw, capsys, model_type, ids):
    kind = (f"model_type={model_type}", f"vocab_size={ids}")
    train = (*SMALL, *raw, *(f"--config.data.tokenizer.{k}" for k in kind), "--tokenizer")
    code, out, err = called(capsys, *train)
    assert code == 0, err
    path, digest = re.fullmatch(rf"(.*\.model): {ids} ids, digest (\w+)\n", out).groups()
    assert not list(pathlib.Path(path).parents[1].rglob("tokens.npy"))
    trained = pathlib.Path(path).stat().st_mtime_ns
    assert digest in called(capsys, *train[:-1])[1]
    assert digest in called(capsys, *SMALL, *raw, f"--config.data.tokenizer.path={path}")[1]
    assert pathlib.Path(path).stat().st_mtime_ns == trained


def test_faces_alone_ask_for_a_tokenizer(raw, capsys):
    code, out, err = called(capsys, CONFIG, "--config.data.dataset=fer2013", *raw)
    assert (code, out) == (2, "")
    assert "fer2013: no words to train a tokenizer on; set config.data.tokenizer.path" in err


def test_a_tokenizer_reads_only_what_it_is_trained_on(tiny_config, raw, tmp_path):
    folders = [flag.partition("=")[2] for flag in raw]
    tiny_config.data.update(manual_dir=folders[0], data_dir=folders[1])
    tiny_config.data.dataset = "fer2013"
    tiny_config.data.mixtures = ConfigDict(
        {"talk": {"objectives": ("text_emotion",), "datasets": {"meld": 1.0}}}
    )
    tiny_config.data.tokenizer.update(mixture="talk", model_type="bpe", vocab_size=290)
    tokenizer, _ = prepare.prepare_tokenizer(tiny_config)
    assert {path.name for path in (tmp_path / "data" / "prepared").iterdir()} == {
        "meld",
        "tokenizers",
    }
    assert prepare.prepare(tiny_config).tokenizer.digest == tokenizer.digest
    tiny_config.data.tokenizer.update(byte_fallback=False, vocab_size=60)
    assert prepare.prepare_tokenizer(tiny_config)[0].digest != tokenizer.digest


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((), ["--config is missing"]),
        ((CONFIG, "--config.data.datset=meld"), ["data.dataset"]),
        ((CONFIG, "--config.data.dataset=melt"), ["unknown dataset 'melt'", "meld"]),
        ((CONFIG, "--config.data.dataset=meld"), ["train_sent_emo.csv", "github.com"]),
        ((CONFIG, "--verfy"), ["verfy", "verify"]),
        ((CONFIG, "--verify", "--tokenizer"), ["do not go together"]),
        ((CONFIG, "--config.data.tokenizer.path=none.model", "--tokenizer"), ["none.model"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refuses_in_one_message_and_writes_nothing(capsys, tmp_path, arguments, names):
    code, out, err = called(capsys, *arguments, f"--data_dir={tmp_path / 'data'}")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert all(name in err for name in names), err
    assert not list(tmp_path.rglob("*.npy"))


def files(folder: pathlib.Path) -> dict[str, bytes]:
    of_this_copy = ("lock", "checked.json")  # which has inodes and times
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in of_this_copy)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


# Parts of 4 images and 64 turns, so that there are many. Workers run this file too.
PROGRAM = """
import sys, time
from igerg_jax.data import parts, prepare, writer
writer.PART_IMAGES, writer.PART_TURNS = 4, 64
save_npz = parts.save_npz
def slowly(path, arrays):
    time.sleep(0.2)
    save_npz(path, arrays)
parts.save_npz = slowly
if __name__ == "__main__":
    sys.exit(prepare.main(sys.argv))
"""


def start(folder: pathlib.Path, arguments) -> subprocess.Popen:
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, folder / "program.py", *arguments]
    return subprocess.Popen(
        [*command, "--config.data.prepare_workers=2"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def stat(path: pathlib.Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def parts_of(data: pathlib.Path) -> dict[str, tuple[int, int]]:
    """{a part that is done: (inode, modification time)}, each part of images with its shard."""
    found = {}
    for path in data.rglob("turns.partial/parts/*/[!u]*.npz"):
        found[f"{path.parent.name}/{path.name}"] = stat(path)
        shard = path.parents[2] / path.parent.name / f"{path.stem}.array_record"
        if shard.exists():
            found[f"{shard.parent.name}/{shard.name}"] = stat(shard)
    return found


def kill_after(process: subprocess.Popen, data: pathlib.Path, count: int) -> dict:
    """Kills it as soon as so many parts are done; returns those that are, its workers gone too."""
    for _ in range(12_000):
        if sum(name.endswith(".npz") for name in parts_of(data)) >= count:
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(6000):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return parts_of(data)
        time.sleep(0.01)
    raise AssertionError("a worker outlives the process that started it")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
def test_killed_twice_it_keeps_every_part_and_ends_the_same(raw, tmp_path, monkeypatch):
    """SIGKILL to the parent of two workers; what was whole then is never written again."""
    data = tmp_path / "data"
    once = kill_after(start(tmp_path, (*SMALL, *raw)), data, 5)
    twice = kill_after(start(tmp_path, (*SMALL, *raw)), data, 11)
    assert once.items() <= twice.items() and len(twice) > len(once)
    process = start(tmp_path, (*SMALL, *raw))
    assert process.wait() == 0, process.stderr.read()

    kept = {name: at for name, at in twice.items() if name.endswith("record")}
    (turns,) = data.rglob("turns")
    assert kept == {name: stat(turns / name) for name in kept} != {}
    monkeypatch.setattr(writer, "PART_IMAGES", 4)
    monkeypatch.setattr(writer, "PART_TURNS", 64)
    whole = (*SMALL, raw[0], f"--data_dir={tmp_path / 'whole'}", "--config.data.prepare_workers=1")
    assert prepare.main(["prepare", *whole]) == 0
    assert files(data) == files(tmp_path / "whole")


def test_killed_while_it_finishes_it_only_renames(raw, tmp_path, monkeypatch, capsys):
    """Checksums are the last that is written: with them there, nothing is done again."""
    rename = pathlib.Path.rename

    def die(self, target):
        raise KeyboardInterrupt if self.name == "turns.partial" else AssertionError

    monkeypatch.setattr(pathlib.Path, "rename", die)
    assert called(capsys, *SMALL, *raw)[0] == 130
    monkeypatch.setattr(pathlib.Path, "rename", rename)
    monkeypatch.setattr(parts, "save_npz", lambda path, arrays: pytest.fail(f"{path} again"))
    monkeypatch.setattr(writer, "tokens", lambda *a: pytest.fail("tokens"))
    with pytest.raises(pytest.fail.Exception, match="tokens"):
        called(capsys, *SMALL, *raw)
    (summary,) = (tmp_path / "data").rglob("turns/summary.json")
    assert json.loads(summary.read_text())["splits"]["train"]["turns"] == 152


def test_a_worker_that_is_killed_is_told_as_such():
    with pytest.raises(UserError, match=r"a process was killed.*prepare_workers"):
        parts.run([functools.partial(os._exit, 9)] * 2, 2, "preparing x")


def test_ctrl_c_reaches_no_worker():
    """A terminal sends it to all processes of a program."""
    try:
        parts.run([functools.partial(signal.raise_signal, signal.SIGINT)] * 2, 2, "preparing x")
    except KeyboardInterrupt:
        pytest.fail("a worker was interrupted")


def test_who_is_interrupted_waits_for_no_worker(tmp_path):
    def interrupt():
        while not multiprocessing.active_children():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            parts.run([functools.partial(time.sleep, 300)] * 2, 2, "preparing x")
    finally:
        signal.signal(signal.SIGINT, handler)
        thread.join()
    assert time.monotonic() - began < 100
    assert not multiprocessing.active_children()


def test_image_bytes_are_stored_once(tiny_config, raw, tmp_path):
    """Turns refer to faces, mixtures and tokenizers to a dataset: none copies an image."""
    manual, data = (flag.partition("=")[2] for flag in raw)
    tiny_config.data.update(dataset="paired/meld+fer2013", manual_dir=manual, data_dir=data)
    tiny_config.data.tokenizer.update(model_type="bpe", vocab_size=290)
    tiny_config.data.mixtures = ConfigDict(
        {
            "faces": {"objectives": ("image_emotion",), "datasets": {"fer2013": 1.0}},
            "more": {
                "objectives": ("sequence_emotion",),
                "datasets": {"fer2013": 1.0, "paired/meld+fer2013": 1.0},
            },
        }
    )
    prepared = prepare.prepare(tiny_config)
    turns = prepared.split("train").turns
    records = turns.read_images(range(turns.count_images()))
    assert len(records) == len(set(records)) == 56 < len(turns) == 152
    assert set(turns.image) == set(range(56))
    on_disk = sum(p.stat().st_size for p in prepared.turns_folder.glob("train/*.array_record"))
    assert sum(map(len, records)) < on_disk < 1.2 * sum(map(len, records)) + 65_536
    shards = {p: stat(p) for p in (tmp_path / "data").rglob("*.array_record")}
    assert {p.parents[1] for p in shards} == {
        opened.turns_folder for opened in prepared.datasets.values()
    }
    tiny_config.data.tokenizer.vocab_size = 288
    assert prepare.prepare(tiny_config).folder != prepared.folder
    assert {p: stat(p) for p in (tmp_path / "data").rglob("*.array_record")} == shards
