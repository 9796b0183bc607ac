"""Prepared data: written once, whole or not at all, and read back by number."""

import io
import itertools
import pathlib

import numpy as np
import pytest
from PIL import Image

from igerg_jax import metrics
from igerg_jax.batch import UNKNOWN
from igerg_jax.data import builders, prepare, store
from igerg_jax.errors import UserError


@pytest.fixture
def prepared(tiny_config):
    return prepare.prepare(tiny_config)


def picture(side: int, format: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side + 1), (side, 0, 0)).save(out, format)
    return out.getvalue()


def test_what_was_written_is_what_was_built(prepared, tiny_config):
    root = pathlib.Path(tiny_config.data.data_dir) / "tfds"
    builder = builders.make(tiny_config.data.dataset, str(root))
    source = builder.as_data_source("valid")
    split = prepared.split("valid")
    assert split.num_turns == len(source)
    for number in (0, 1, len(source) - 1):
        example = source[number]
        text = example["text"].decode()
        assert split.turns.text(number) == text
        assert split.turns.tokens(number).tolist() == prepared.tokenizer.encode(text)
        assert split.turns.emotion[number] == example["emotion"]
        (jpeg,) = split.turns.read_images(split.turns.image[number : number + 1])
        np.testing.assert_allclose(
            np.asarray(Image.open(io.BytesIO(jpeg))), example["image"], atol=3
        )


def test_windows_never_cross_episodes_and_every_answer_has_one(prepared):
    for name in ("train", "valid", "test"):
        split = prepared.split(name)
        in_episode = split.turns.turn_in_episode
        assert split.num_windows == split.num_turns - (in_episode == 0).sum()
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


def test_a_second_call_builds_nothing(prepared, tiny_config, monkeypatch):
    monkeypatch.setattr(prepare, "_build", None)
    again = prepare.prepare(tiny_config)
    assert again.folder == prepared.folder
    assert again.tokenizer.digest == prepared.tokenizer.digest == prepared.folder.name


def test_an_existing_tokenizer_is_taken_and_keys_the_folder(prepared, tiny_config, monkeypatch):
    tiny_config.data.tokenizer.path = str(prepared.folder / "tokenizer.model")
    assert prepare.prepare(tiny_config).folder == prepared.folder
    tiny_config.data.tokenizer.update(path="", vocab_size=400)
    other = prepare.prepare(tiny_config)
    assert other.tokenizer.vocab_size == 400
    assert other.folder != prepared.folder
    assert other.folder.parent == prepared.folder.parent


def test_killed_half_way_it_is_redone_cleanly(tiny_config, prepared, monkeypatch):
    tiny_config.data.tokenizer.vocab_size = 450
    written = store.write

    def write_and_die(folder, turns):
        written(folder, itertools.islice(turns, 10))
        raise KeyboardInterrupt

    base = prepared.folder.parent
    before = {path.name for path in base.iterdir()}
    monkeypatch.setattr(store, "write", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(tiny_config)
    assert {path.name for path in base.iterdir()} == before
    # A kill that nothing can catch leaves its unfinished folder; nobody takes it for a whole one.
    (base / "partial-abc" / "train").mkdir(parents=True)
    monkeypatch.setattr(store, "write", written)
    whole = prepare.prepare(tiny_config)
    assert whole.split("train").num_turns == prepared.split("train").num_turns


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
    found = metrics.unigram_perplexity(
        prepared.response_token_counts("train"), prepared.response_token_counts("valid")
    )
    assert found == pytest.approx(expected, rel=1e-6)
    assert 1 < expected < prepared.tokenizer.vocab_size


def test_store_keeps_any_text_missing_images_and_other_formats(tmp_path):
    turns = [
        store.Turn("héllo 😀", [7, 8, 9], 2, 0, picture(9)),
        store.Turn("", [], UNKNOWN, 1, None),
        store.Turn("new episode", [5], 6, 0, picture(7, "PNG")),
    ]
    found = store.write(tmp_path, turns)
    assert found == {"turns": 3, "windows": 1, "images": 2}
    read = store.TurnStore(tmp_path)
    assert [read.text(i) for i in range(3)] == [turn.text for turn in turns]
    assert [read.tokens(i).tolist() for i in range(3)] == [[7, 8, 9], [], [5]]
    assert [t.tolist() for t in read.all_tokens()] == [[7, 8, 9], [], [5]]
    assert read.emotion.tolist() == [2, UNKNOWN, 6]
    assert read.image.tolist() == [0, store.NO_IMAGE, 1]
    assert read.image_height_width.tolist() == [[10, 9], [8, 7]]
    last, first = read.read_images([1, 0])
    assert first == picture(9)  # a JPEG is kept bit by bit
    assert Image.open(io.BytesIO(last)).format == "JPEG"
    assert read.read_images([]) == []


def test_an_empty_split_can_be_written_and_read(tmp_path):
    assert store.write(tmp_path, []) == {"turns": 0, "windows": 0, "images": 0}
    read = store.TurnStore(tmp_path)
    assert len(read) == 0
    assert list(read.all_tokens()) == []


def test_a_gap_in_an_episode_is_refused(tmp_path):
    turns = [store.Turn("a", [5], 6, 0, None), store.Turn("b", [5], 6, 2, None)]
    with pytest.raises(ValueError, match="turn 1: 2 follows 0"):
        store.write(tmp_path, turns)


def test_errors_name_the_thing(prepared, tiny_config, tmp_path):
    with pytest.raises(UserError, match="no split 'dev'; there are: train, valid, test"):
        prepared.split("dev")
    (tmp_path / "file").touch()
    tiny_config.data.data_dir = str(tmp_path / "file")
    with pytest.raises(UserError, match=r"data_dir '.*file': Not a directory"):
        prepare.prepare(tiny_config)
    tiny_config.data.dataset = "nothing"
    with pytest.raises(UserError, match="unknown dataset 'nothing'"):
        prepare.prepare(tiny_config)
