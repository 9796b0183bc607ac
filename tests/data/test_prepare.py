"""Prepared data: written once, whole or not at all, and read back by number."""

import io
import json
import resource
import shutil
import threading
import time
import traceback

import damage
import numpy as np
import pytest
from PIL import Image

from igerg_jax import text_metrics
from igerg_jax.batch import UNKNOWN
from igerg_jax.data import (
    builders,
    folders,
    parts,
    pipeline,
    prepare,
    store,
    trained_tokenizers,
    writer,
)
from igerg_jax.data.builders import source
from igerg_jax.data.builders.chitchat_peeps import drawing
from igerg_jax.errors import UserError


@pytest.fixture
def prepared(tiny_config):
    return prepare.prepare(tiny_config)


def picture(side: int, format: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side + 1), (side, 0, 0)).save(out, format)
    return out.getvalue()


def test_what_was_written_is_what_was_built(prepared, tiny_config):
    source = builders.splits(tiny_config.data.dataset, builders.options_of(tiny_config.data))[
        "valid"
    ]
    split = prepared.split("valid")
    assert len(split.turns) == len(source)
    for number in (0, 1, len(source) - 1):
        row = source.row(number)
        assert split.turns.text(number) == row["text"]
        assert split.turns.tokens(number).tolist() == prepared.tokenizer.encode(row["text"])
        assert split.turns.emotion[number] == row["emotion"]
        assert split.turns.read_images(split.turns.image[number : number + 1]) == [
            source.image(number)
        ]


def test_images_may_be_prepared_at_a_short_side(prepared, tiny_config):
    """In a folder of their own, with the same words; each stored image is as its size says."""
    tiny_config.data.short_side = tiny_config.data.image_size + 8
    scaled = prepare.prepare(tiny_config)
    before, after = (each.split("valid").turns for each in (prepared, scaled))
    assert scaled.folder != prepared.folder and len(before) == len(after)
    numbers = before.image[:5]
    assert (after.image[:5] == numbers).all()
    for jpeg, height_width in zip(
        after.read_images(numbers), after.image_height_width[numbers], strict=True
    ):
        with Image.open(io.BytesIO(jpeg)) as image:
            assert (image.height, image.width) == tuple(height_width)
    shortest = before.image_height_width[numbers].min(axis=1)
    expected = np.minimum(shortest, tiny_config.data.short_side)
    assert (after.image_height_width[numbers].min(axis=1) == expected).all()
    assert shortest.max() > tiny_config.data.short_side, "or nothing is scaled down"
    assert prepare.verify(tiny_config) == 1


def test_windows_never_cross_episodes_and_every_answer_has_one(prepared):
    for name in ("train", "valid", "test"):
        split = prepared.split(name)
        in_episode = split.turns.turn_in_episode
        assert split.num_windows == len(split.turns) - (in_episode == 0).sum()
        lengths = set()
        for i in range(split.num_windows):
            first, last = split.turn_range(i)
            lengths.add(last - first)
            assert in_episode[last] - in_episode[first] == last - first > 0
        assert lengths == {1, 2, 3}  # context_turns is 3


def test_a_window_is_its_turns(prepared):
    split = prepared.split("valid")
    i = next(i for i in range(split.num_windows) if np.ptp(split.turn_range(i)) == 3)
    first, last = split.turn_range(i)
    window = split.window(i)
    assert window.turn_texts == tuple(split.turns.text(n) for n in range(first, last))
    assert window.response_text == split.turns.text(last)
    assert window.response_emotion == split.turns.emotion[last]
    assert len(window.turn_images) == len(window.turn_emotions) == 3
    assert len({*window.turn_images, window.response_image}) == 4
    assert all(image[:2] == b"\xff\xd8" for image in window.turn_images)


def test_a_second_call_writes_nothing(prepared, tiny_config, monkeypatch):
    monkeypatch.setattr(writer, "turns", None)
    monkeypatch.setattr(writer, "tokens", None)
    monkeypatch.setattr(trained_tokenizers, "_train", None)
    again = prepare.prepare(tiny_config)
    assert again.folder == prepared.folder
    assert again.tokenizer.digest == prepared.tokenizer.digest == prepared.folder.name


def test_an_existing_tokenizer_is_taken_and_keys_the_folder(prepared, tiny_config):
    tiny_config.data.tokenizer.path = str(prepared.folder / "tokenizer.model")
    assert prepare.prepare(tiny_config).folder == prepared.folder
    tiny_config.data.tokenizer.update(path="", vocab_size=400)
    other = prepare.prepare(tiny_config)
    assert other.tokenizer.vocab_size == 400
    assert other.folder != prepared.folder
    assert other.turns_folder == prepared.turns_folder  # words and images are there once
    assert not list(other.folder.rglob("*.array_record"))


def test_folders_are_keyed_by_what_is_read(tiny_config, monkeypatch):
    data = tiny_config.data

    def keys():
        names = ("chitchat_openmoji/tiny", "coco_captions", "meld", "paired/meld+fer2013")
        return [folders.of_dataset(data, name) for name in names]

    before, data.manual_dir = keys(), "elsewhere"
    assert [a == b for a, b in zip(before, keys(), strict=True)] == [True, True, False, False]
    before, data.labels.path = keys(), "labels"
    assert not set(before) & set(keys())
    before = keys()
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert not set(before) & set(keys())


def fresh(config, tmp_path, workers=1):
    config = config.copy_and_resolve_references()
    config.data.update(data_dir=str(tmp_path), prepare_workers=workers)
    return config


def copied(config, prepared, tmp_path):
    """(config, dataset) of a copy, to damage."""
    config = fresh(config, tmp_path)
    base = folders.of_dataset(config.data, config.data.dataset)
    shutil.copytree(prepared.folder.parent, base, ignore=shutil.ignore_patterns("*.partial"))
    config.data.tokenizer.path = str(prepared.folder / "tokenizer.model")
    return config, prepare.prepare(config)


def files(folder) -> dict[str, bytes]:
    others = ("lock", "checked.json")
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in others)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_killed_half_way_it_goes_on_and_ends_the_same(tiny_config, prepared, tmp_path, monkeypatch):
    """In parts of 100 turns, the first run until its second part with images. A part is never done
    twice, unless it is damaged: a power failure may leave files empty."""

    def plain(peep, place, background, pixels):
        return Image.new("RGB", (pixels, pixels), background.near)

    monkeypatch.setattr(drawing, "render", plain)  # whole faces take most of the time
    monkeypatch.setattr(writer, "PART_TURNS", 100)
    monkeypatch.setattr(writer, "PART_IMAGES", 100)
    tiny_config.data.tokenizer.path = str(prepared.folder / "tokenizer.model")
    whole = prepare.prepare(fresh(tiny_config, tmp_path / "whole"))
    config = fresh(tiny_config, tmp_path / "cut")
    written = parts.save_npz

    def die(path, arrays):
        if path.name == "images-00001.npz":
            raise KeyboardInterrupt
        written(path, arrays)

    monkeypatch.setattr(parts, "save_npz", die)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(config)
    base = folders.of_dataset(config.data, config.data.dataset)
    assert not (base / "turns").exists()
    finished = {p: p.stat().st_mtime_ns for p in (base / "turns.partial" / "parts").rglob("*.npz")}
    assert len(finished) > 3
    again, damaged = [], sorted(finished)[:2]
    damaged[0].write_bytes(b"")
    damage.FAULTS["cut"](damaged[1])
    images = next((base / "turns.partial").rglob("images-00000.array_record"))
    images.write_bytes(b"")
    damaged.append(base / "turns.partial" / "parts" / images.parent.name / f"{images.stem}.npz")
    monkeypatch.setattr(parts, "save_npz", lambda p, a: (again.append(p), written(p, a)))
    cut = prepare.prepare(config)
    assert finished.keys() & set(again) == finished.keys() & set(damaged)
    assert files(cut.folder.parent) == files(whole.folder.parent)
    assert files(cut.folder.parent).keys() >= {"turns/summary.json", "turns/train/image.npy"}


@pytest.mark.slow
def test_processes_and_parts_change_nothing(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PART_IMAGES", 512)  # more turns than that: processes are started
    alone = prepare.prepare(fresh(tiny_config, tmp_path / "1", workers=1))
    shared = prepare.prepare(fresh(tiny_config, tmp_path / "2", workers=2))
    assert files(alone.folder.parent) == files(shared.folder.parent)


def test_training_names_the_folder_of_a_damaged_shard_and_lets_the_program_end(
    tiny_config, prepared, tmp_path
):
    """An exception that holds TensorFlow's iterator would keep the interpreter from exiting."""
    config, prepared = copied(tiny_config, prepared, tmp_path)
    (images,) = prepared.turns_folder.glob("train/*.array_record")
    data = bytearray(images.read_bytes())
    data[65_536:] = bytes(byte ^ 1 for byte in data[65_536:-65_536]) + data[-65_536:]
    images.write_bytes(data)
    batches = pipeline.train_batches(prepared, config, 0, np.arange(config.train.batch_size))
    with pytest.raises(UserError, match=r"turns/train': Corrupted .*prepare --verify") as caught:
        list(batches)
    error = caught.value
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    held = {type(value).__qualname__ for frame in frames for value in frame.f_locals.values()}
    assert error.__context__ is error.__cause__
    assert not any("Iterator" in name for name in held), held


def test_tokens_of_other_turns_are_refused(tiny_config, prepared, tmp_path):
    """As after a change of the raw files, where only turns/ was removed."""
    for name in ("token_offsets", "tokens"):
        column = np.load(prepared.folder / "train" / f"{name}.npy")
        np.save(tmp_path / f"{name}.npy", column[: len(column) - (name == "token_offsets")])
    with pytest.raises(UserError, match=r"has the tokens of \d+ turns.*: remove .*prepare again"):
        store.TurnStore(prepared.turns_folder / "train", tmp_path)


def test_files_may_stay_open_however_many_there_are():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        low = 512
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, before[1]))
        store.allow_open_files(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (low + 100, before[1])
        store.allow_open_files(2**40)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == hard or hard == resource.RLIM_INFINITY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_verify_finds_what_is_damaged(tiny_config, prepared, tmp_path):
    _, prepared = copied(tiny_config, prepared, tmp_path)
    base = prepared.folder.parent
    assert writer.verify(base, prepared.folder) == []
    (images,) = (base / "turns" / "test").glob("*.array_record")
    data = bytearray(images.read_bytes())
    data[len(data) // 2] ^= 1
    images.write_bytes(data)
    (wrong,) = writer.verify(base, prepared.folder)
    assert images.name in wrong and "differs from what was written" in wrong
    images.unlink()
    tokens = prepared.folder / "train" / "tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-4])
    missing, shorter = writer.verify(base, prepared.folder)
    assert "is missing" in missing and "tokens.npy" in shorter
    # Counts are compared too: a summary that promises more than there is.
    data[len(data) // 2] ^= 1
    images.write_bytes(data)
    summary = json.loads((base / "turns" / "summary.json").read_text())
    summary["splits"]["test"]["images"] += 1
    (base / "turns" / "summary.json").write_text(json.dumps(summary))
    tokens.write_bytes(tokens.read_bytes() + b"1234")
    for folder in (base / "turns", prepared.folder):
        parts.write_manifest(folder, without="parts")
    assert any("images, not" in line for line in writer.verify(base, prepared.folder))


def test_unigram_perplexity_by_hand(prepared, tiny_config):
    """From the texts of the windows alone, with the response cut as a batch cuts it."""
    special, kept = prepared.tokenizer.special, tiny_config.data.response_tokens - 1

    def tokens(name):
        split = prepared.split(name)
        for i in range(split.num_windows):
            ids = prepared.tokenizer.encode(split.turns.text(split.turn_range(i)[1]))
            yield from [*ids[:kept], special.eos]

    counts = np.ones(prepared.tokenizer.vocab_size)
    for token in tokens("train"):
        counts[token] += 1
    log_p = [np.log(counts[token] / counts.sum()) for token in tokens("valid")]
    expected = np.exp(-np.mean(log_p))
    found = text_metrics.unigram_perplexity(
        prepared.response_token_counts("train"), prepared.response_token_counts("valid")
    )
    assert found == pytest.approx(expected, rel=1e-6)
    assert 1 < expected < prepared.tokenizer.vocab_size


class Listed(source.Turns):
    """Turns from a list of (turn, text, emotion, image key, image)."""

    def __init__(self, turns):
        self._turns = turns

    def __len__(self):
        return len(self._turns)

    def row(self, i):
        turn, text, emotion, *_ = self._turns[i]
        return source.row(0, turn, text, emotion)

    @property
    def image_keys(self):
        return np.array([turn[3] for turn in self._turns], np.int64)

    def image(self, i):
        return self._turns[i][4]


def write_listed(monkeypatch, tmp_path, **splits):
    listed = {name: Listed(turns) for name, turns in splits.items()}
    monkeypatch.setattr(builders, "splits", lambda dataset, options: listed)
    options = source.Options(str(tmp_path), "", "", 0.0)
    folder = writer.turns("chitchat_openmoji", options, tmp_path, 1, short_side=0)
    return folder, json.loads((folder / "summary.json").read_text())["splits"]


def test_store_keeps_any_text_shared_missing_and_broken_images(tmp_path, monkeypatch, capsys):
    none = source.NO_IMAGE
    turns = [
        (0, "héllo 😀", 2, 7, picture(9)),
        (1, "", UNKNOWN, none, None),
        (2, "the same image", UNKNOWN, 7, None),  # asked of the first turn that shows it
        (0, "new episode", 6, 5, picture(7, "PNG")),
        (1, "missing", 6, 1, None),
        (2, "broken", 6, 2, picture(40)[:300]),
        (3, "last", 6, 3, picture(5)),
    ]
    folder, counts = write_listed(monkeypatch, tmp_path, train=turns, empty=[])
    found = counts["train"]
    assert (found["turns"], found["windows"], found["images"]) == (7, 5, 3)
    assert (found["missing_images"], found["broken_images"]) == (1, 1)
    assert "images: 3 read, 1 missing, 1 broken" in capsys.readouterr().err
    assert (counts["empty"]["turns"], counts["empty"]["images"]) == (0, 0)
    read = store.TurnStore(folder / "train", None)
    assert [read.text(i) for i in range(7)] == [turn[1] for turn in turns]
    assert read.emotion.tolist() == [2, UNKNOWN, UNKNOWN, 6, 6, 6, 6]
    assert read.image.tolist() == [0, none, 0, 1, none, none, 2]
    assert read.image_height_width.tolist() == [[10, 9], [8, 7], [6, 5]]
    third, first = read.read_images([2, 0])
    assert first == picture(9) and third == picture(5)  # a JPEG is kept bit by bit
    assert Image.open(io.BytesIO(read.read_images([1])[0])).format == "JPEG"
    assert read.read_images([]) == []
    assert len(store.TurnStore(folder / "empty", None)) == 0


def test_a_gap_in_an_episode_is_refused(tmp_path, monkeypatch):
    turns = [(0, "a", 6, -1, None), (2, "b", 6, -1, None)]
    with pytest.raises(ValueError, match="turn 1: 2 follows 0"):
        write_listed(monkeypatch, tmp_path, train=turns)


def test_errors_name_the_thing(prepared, tiny_config, tmp_path):
    with pytest.raises(UserError, match="no split 'dev'; available: train, valid, test"):
        prepared.split("dev")
    (tmp_path / "file").touch()
    tiny_config.data.data_dir = str(tmp_path / "file")
    with pytest.raises(UserError, match=r"file/prepared.*' \(config\.data\.data_dir\): Not a"):
        prepare.prepare(tiny_config)
    tiny_config.data.dataset = "nothing"
    with pytest.raises(UserError, match="unknown dataset 'nothing'"):
        prepare.prepare(tiny_config)


def test_one_at_a_time_writes_into_a_folder(tmp_path):
    entered = []

    def enter_too():
        with folders.locked(tmp_path / "new"):
            entered.append("second")

    other = threading.Thread(target=enter_too)
    with folders.locked(tmp_path / "new"):
        other.start()
        time.sleep(0.3)
        entered.append("first")
    other.join(timeout=30)
    assert entered == ["first", "second"]


@pytest.mark.parametrize("name", ["turns", "turns.partial", "digest", "digest.partial"])
def test_a_file_in_the_way_of_a_folder_is_named_before_anything_is_written(tmp_path, name):
    (tmp_path / name).write_text("")
    folder = tmp_path / name.removesuffix(".partial")
    refused = pytest.raises(UserError, match=rf"'.*/{name}' is not a folder: remove it")
    with refused, folders.locked_if_missing(folder):
        pytest.fail("begun")
