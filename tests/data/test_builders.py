"""The embedded dataset: labels, faces, episodes, and what the builder writes."""

import io
import itertools
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from igerg_jax import lexicon
from igerg_jax.batch import EMOTION_ID, EMOTIONS, NUM_EMOTIONS
from igerg_jax.data import builders
from igerg_jax.data.builders import source, tfds_builder
from igerg_jax.data.builders.chitchat import episodes, faces
from igerg_jax.errors import UserError


def options(folder, manual_dir=""):
    return source.Options(str(folder), str(manual_dir), "", 0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """{split: examples} of the tiny config, and the builder."""
    builder = tfds_builder.make("chitchat_openmoji/tiny", options(tmp_path_factory.mktemp("tfds")))
    builder.download_and_prepare()
    sources = {name: builder.as_data_source(name) for name in builder.info.splits}
    read = {name: source.__getitems__(range(len(source))) for name, source in sources.items()}
    return read, builder


@pytest.mark.parametrize(
    "text, emotion",
    [
        ("I was so scared of that movie", "fear"),
        ("that's gross haha", "disgust"),
        ("Ugh I hate mondays", "anger"),
        ("sorry to hear that :(", "sadness"),
        ("No way!", "surprise"),
        ("really?", "surprise"),
        ("I don’t like it", "disgust"),  # a typographic apostrophe
        ("thanks, that was so fun", "joy"),
        ("where do you live", "neutral"),
        ("", "neutral"),
        ("no worries", "neutral"),
        ("I'm not scared", "neutral"),
        ("I am not sure! I hate it", "anger"),  # the negation ends with its clause
        ("not a fan", "disgust"),  # a phrase that begins with a negator
        ("madam, the sadist is a lovely person", "neutral"),  # whole words only
    ],
)
def test_label_reads_cues(text, emotion):
    assert EMOTIONS[lexicon.label(text)] == emotion


def test_every_cue_speaks_for_its_own_emotion():
    """No phrase is in two lists, is shadowed by a stem, or contains its own negation."""
    for emotion, block in lexicon.CUES.items():
        for entry in block.split(","):
            phrase = " ".join(entry.split()).replace("*", "")
            assert lexicon.count_cues(phrase) == {emotion: 1}, phrase


def test_faces_of_a_split_are_in_no_other():
    glyphs = [g for table in faces.GLYPHS.values() for row in table.values() for g in row]
    assert len(glyphs) == len(set(glyphs))
    for table in faces.GLYPHS.values():
        assert set(table) == set(EMOTIONS)
    assert min(len(row) for row in faces.GLYPHS["train"].values()) >= 4


def test_every_face_is_drawn_and_is_not_the_missing_glyph():
    missing = faces.draw("\U000effff", random.Random(0))
    for table in faces.GLYPHS.values():
        for glyph in "".join(table.values()):
            assert faces.draw(glyph, random.Random(0)) != missing


def test_faces_put_together_are_of_train_and_never_a_held_out_one():
    rng, seen = random.Random(0), set()
    for emotion, name in enumerate(EMOTIONS):
        seen |= {faces.pick("train", emotion, rng) for _ in range(400)}
        assert set("".join(seen)) <= set("".join(faces.GLYPHS["train"].values()))
        for split in ("valid", "test"):
            picked = {faces.pick(split, emotion, rng) for _ in range(40)}
            assert picked <= set(faces.GLYPHS[split][name])
    mixed = {face for face in seen if len(face) == 2 and face[0] != face[1]}
    assert len(mixed) > 100
    assert not {"😁😀", "😁😆", "😬😧"} & mixed  # 😄 of test, and 😦 of valid
    held_out = "".join("".join(faces.GLYPHS[s].values()) for s in ("valid", "test"))
    drawn = {face: np.asarray(faces._tile(face)[0], int) for face in (*mixed, *held_out)}
    for face in mixed:
        assert min(abs(drawn[face] - drawn[other]).mean() for other in held_out) > 1.5


def test_drawing_is_a_pure_function_of_glyph_and_seed():
    one, same, other = (faces.draw("😀", random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other
    with Image.open(io.BytesIO(one)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert image.size == (faces.IMAGE_PIXELS, faces.IMAGE_PIXELS)


def test_best_stretches_are_the_best_by_brute_force():
    rng = random.Random(0)
    lengths = range(episodes.MIN_TURNS, episodes.MAX_TURNS + 1)
    for size in (4, 5, 11, 13):
        for _ in range(5):
            scores = [rng.choice([2.0, 0.0, -1.0]) for _ in range(size)]
            spans = [(a, a + n) for n in lengths for a in range(size - n + 1)]
            best = 0.0
            for count in (1, 2):
                for chosen in itertools.combinations(spans, count):
                    ordered = sorted(chosen)
                    if all(a[1] <= b[0] for a, b in itertools.pairwise(ordered)):
                        best = max(best, sum(sum(scores[a:b]) for a, b in chosen))
            found = episodes.best_stretches(scores)
            assert all(b - a in lengths for a, b in found)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(found))
            assert sum(sum(scores[a:b]) for a, b in found) == pytest.approx(best)


def test_long_turns_keep_whole_messages():
    limit = episodes.MAX_TURN_WORDS
    assert episodes.shorten(["a b", " c "]) == "a b c"
    assert episodes.shorten(["a " * (limit - 1), "b c", "d"]).split() == ["a"] * (limit - 1)
    assert len(episodes.shorten(["a " * 15_000]).split()) == limit
    assert episodes.shorten(["", "  "]) == ""


def test_splits_do_not_depend_on_the_process():
    """Python's own hash of a string does."""
    code = """
from igerg_jax.data.builders.chitchat import episodes
print([episodes.split_of(str(i)) for i in range(100)])
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=pathlib.Path(__file__).parents[2],
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert b"test" in found.pop()


def test_splits_share_no_conversation_and_no_face(tiny):
    read, _ = tiny
    assert set(read) == {"train", "valid", "test"}
    for field in ("conversation", "glyph"):
        kept = [{example[field] for example in examples} for examples in read.values()]
        assert all(kept)
        for one, other in itertools.combinations(kept, 2):
            assert not one & other


def test_examples_say_what_their_image_and_words_show(tiny):
    read, _ = tiny
    for split, examples in read.items():
        for example in examples:
            emotion = int(example["emotion"])
            assert chr(example["glyph"]) in faces.GLYPHS[split][EMOTIONS[emotion]]
            assert lexicon.label(example["text"].decode()) == emotion
        assert examples[0]["image"].shape == (faces.IMAGE_PIXELS, faces.IMAGE_PIXELS, 3)


def test_turns_are_in_the_order_of_the_dialogue(tiny):
    read, _ = tiny
    for examples in read.values():
        for before, after in itertools.pairwise(examples):
            same = before["episode"] == after["episode"]
            assert after["turn"] == (before["turn"] + 1 if same else 0)
            assert after["episode"] - before["episode"] in (0, 1)


def test_no_emotion_rules_and_none_is_missing(tiny):
    read, _ = tiny
    labels = np.array([int(e["emotion"]) for e in read["train"]])
    share = np.bincount(labels, minlength=NUM_EMOTIONS) / len(labels)
    assert share.max() <= 1 / 3
    assert share[EMOTION_ID["disgust"]] > 0.02


def test_building_twice_gives_the_same_bytes(tiny, tmp_path):
    _, builder = tiny
    again = tfds_builder.make("chitchat_openmoji/tiny", options(tmp_path))
    again.download_and_prepare()
    first, second = ({p.name: p.read_bytes() for p in _records(b)} for b in (builder, again))
    assert first and first == second


def _records(builder):
    return sorted(p for p in builder.data_path.iterdir() if "array_record" in p.name)


def test_the_dataset_says_whose_it_is(tiny):
    info = tiny[1].info
    assert "MIT" in info.redistribution_info.license
    assert "CC BY-SA 4.0" in info.redistribution_info.license
    assert "openmoji" in info.citation and "chitchat" in info.citation
    assert info.homepage.startswith("https://")


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    builder = tfds_builder.make("chitchat_openmoji/tiny", options("~/tfds"))
    assert tmp_path / "tfds" in builder.data_path.parents


def test_unknown_names_are_told_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"unknown dataset 'chitchat'.*chitchat_openmoji"):
        builders.version("chitchat")
    with pytest.raises(UserError, match="no config 'huge'; available: full, tiny"):
        tfds_builder.make("chitchat_openmoji/huge", options(tmp_path))
