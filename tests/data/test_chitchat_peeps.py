"""The embedded dataset: which faces each split shows, and how they are drawn."""

import collections
import dataclasses
import hashlib
import io
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from igerg_jax.batch import EMOTION_ID, EMOTIONS
from igerg_jax.data import builders
from igerg_jax.data.builders import source, tfds_builder
from igerg_jax.data.builders.chitchat import faces as open_moji
from igerg_jax.data.builders.chitchat_peeps import drawing, peeps
from igerg_jax.errors import UserError
from igerg_jax.tools import draw_faces

WHITE = drawing.Background(near="#ffffff", far="#ffffff", downwards=True)
PERSON = drawing.Peep("short2", "smile", "", "", skin="#edb98a", hair="#a55728", clothing="#8fa7df")
HELD_OUT = ("valid", "test")
CONTENT = {"1.2.0": "bc75bd5b351b7ec5"}  # version -> the digest of its rows and drawings


def options(folder):
    return source.Options(str(folder), "", "", 0.0)


@pytest.fixture(scope="module")
def full():
    """{split: turns} of all chats."""
    return builders.splits("chitchat_peeps/full", options("unused"))


@pytest.fixture(scope="module")
def rows(full):
    """{split: rows} of all chats."""
    return {split: [turns.row(i) for i in range(len(turns))] for split, turns in full.items()}


def with_parts(**parts):
    """PERSON with another head, expression, beard, ..."""
    return dataclasses.replace(PERSON, **parts)


def pixels(peep, side=64):
    return np.asarray(drawing.render(peep, drawing.UPRIGHT, WHITE, side), int)


def test_no_person_and_no_chat_is_in_two_splits(rows):
    assert list(rows) == ["train", "valid", "test", "test_style"]
    for field in ("head", "conversation"):
        kept = [{row[field] for row in rows[split]} for split in ("train", "valid", "test")]
        assert all(kept)
        for one, other in itertools.combinations(kept, 2):
            assert not one & other


def test_the_version_says_what_is_drawn(full, rows):
    """Prepared data is keyed by it: what was drawn before a change would be trained on after it."""
    content = hashlib.sha256(json.dumps(rows, sort_keys=True).encode())
    for turns in (full[split] for split in ("train", "valid", "test")):
        for i in range(0, len(turns), 40):
            picture = drawing.svg(turns.face(i)[0], drawing.UPRIGHT, WHITE, peeps.IMAGE_PIXELS)
            content.update(picture.encode())
    version = builders.version("chitchat_peeps")
    assert CONTENT.get(version) == content.hexdigest()[:16], (
        "the dataset has changed: raise its version, and replace CONTENT"
    )


def test_heads_of_different_splits_look_different():
    """Not only in name: some heads of Open Peeps differ only above the edge of the picture."""
    bare = {
        head: pixels(with_parts(head=head, expression=""))
        for heads in peeps.HEADS.values()
        for head in heads
    }
    for split in HELD_OUT:
        others = [h for s in peeps.HEADS if s != split for h in peeps.HEADS[s]]
        for head in peeps.HEADS[split]:
            nearest = min(np.abs(bare[head] - bare[other]).mean() for other in others)
            assert nearest > 15, head  # noHair1 and noHair2 differ by 8


def test_every_split_shows_every_emotion_in_several_ways(rows):
    for split, of_split in rows.items():
        shown = collections.defaultdict(set)
        for row in of_split:
            shown[row["emotion"]].add(row["expression"])
        assert set(shown) == set(range(len(EMOTIONS)))
        assert min(map(len, shown.values())) >= 5, split


def test_some_expressions_of_every_emotion_are_held_out(rows):
    trained = {row["expression"] for row in rows["train"]}
    for split in HELD_OUT:
        new = [row for row in rows[split] if row["expression"] not in trained]
        assert {row["emotion"] for row in new} == set(range(len(EMOTIONS)))
        assert len(new) / len(rows[split]) == pytest.approx(peeps.HELD_OUT_SHARE, abs=0.05)
    new = [{row["expression"] for row in rows[split]} - trained for split in HELD_OUT]
    assert not new[0] & new[1]


def test_an_expression_shows_one_emotion_and_exists():
    known = set(drawing.names("expression"))
    emotion_of = collections.defaultdict(set)
    for split, by_emotion in peeps.EXPRESSIONS.items():
        assert set(by_emotion) == set(EMOTIONS)
        for emotion, expressions in by_emotion.items():
            for expression in expressions:
                assert set(expression.split("/")) <= known
                emotion_of[expression].add((split, emotion))
    assert all(len(places) == 1 for places in emotion_of.values())


def test_a_held_out_expression_combines_parts_that_train_shows_for_its_emotion():
    """A wholly new pair of eyes would have to be guessed."""

    def parts(expression):
        eyes, _, mouth = expression.partition("/")
        return eyes, mouth or eyes

    for emotion in EMOTIONS:
        trained = [parts(expression) for expression in peeps.EXPRESSIONS["train"][emotion]]
        trained_eyes, trained_mouths = map(set, zip(*trained, strict=True))
        for split in HELD_OUT:
            for eyes, mouth in map(parts, peeps.EXPRESSIONS[split][emotion]):
                assert (eyes, mouth) not in trained
                assert eyes in trained_eyes and mouth in trained_mouths, f"{eyes}/{mouth}"


def test_only_heads_beards_and_glasses_that_exist_are_named():
    heads = [head for of_split in peeps.HEADS.values() for head in of_split]
    assert len(heads) == len(set(heads)) and set(heads) <= set(drawing.names("head"))
    assert set(heads) >= peeps.BEARDED
    assert set(peeps.BEARDS) <= set(drawing.names("facialHair"))
    assert set(peeps.GLASSES) <= set(drawing.names("accessories"))


def test_500_faces_of_the_test_are_different_pictures(full):
    """In their pixels, all drawn upright on white in the same colours."""
    turns, hashes = full["test"], set()
    for i in range(len(turns)):
        peep, _ = turns.face(i)
        parts = {p: getattr(peep, p) for p in ("head", "expression", "beard", "glasses")}
        hashes.add(hashlib.sha256(pixels(with_parts(**parts)).tobytes()).digest())
        if len(hashes) == 500:
            return  # there are more, and each takes a millisecond
    raise AssertionError(f"only {len(hashes)} different faces in test")


def test_expressions_of_different_emotions_differ_visibly_at_64_pixels():
    """By more than a dozen clearly different pixels."""
    shown = [
        (emotion, pixels(with_parts(expression=e)))
        for by_emotion in peeps.EXPRESSIONS.values()
        for emotion, expressions in by_emotion.items()
        for e in expressions
    ]
    for (one, a), (other, b) in itertools.combinations(shown, 2):
        if one != other:
            assert (np.abs(a - b).max(axis=-1) > 60).sum() > 12


@pytest.mark.parametrize("expression", ["rage", "smileLOL", "fear", "awe", "explaining", "hectic"])
def test_the_two_halves_of_an_expression_make_the_whole(expression):
    whole = pixels(with_parts(expression=expression), 128)
    halves = f"{expression}/{expression}"
    joined = pixels(with_parts(expression=halves), 128)
    assert np.abs(whole - joined).mean() < 0.2
    assert (np.abs(whole - joined) > 100).sum() == 0


def test_eyes_come_from_the_first_and_the_mouth_from_the_second():
    def drawn(expression):
        return pixels(with_parts(expression=expression), 128)

    mixed, above, below = drawn("veryAngry/lovingGrin1"), drawn("veryAngry"), drawn("lovingGrin1")
    eyes, mouth = slice(31, 60), slice(90, 112)  # rows of the picture

    def alike(one, other, part):
        return np.abs(one[part] - other[part]).mean() < 0.5  # of 255

    assert alike(mixed, above, eyes) and not alike(mixed, above, mouth)
    assert alike(mixed, below, mouth) and not alike(mixed, below, eyes)


def test_subpaths_start_where_the_path_says():
    assert drawing.subpaths("M1 2l3 4zm.5-1 6 7zM9-9h1z") == [
        (1.0, 2.0, "l3 4z"),
        (1.5, 1.0, "l 6 7z"),
        (9.0, -9.0, "h1z"),
    ]


@pytest.mark.parametrize("expression", ["smile", "serious", "tired", "rage"])
def test_no_beard_hides_a_mouth(expression):
    """Around the mouth only its own lines are black, with and without a beard."""

    def black(beard):
        peep = with_parts(expression=expression, beard=beard)
        return (pixels(peep, 96)[60:88, 40:80] < 60).all(axis=-1)

    lines = black("")
    assert lines.any()
    for beard in peeps.BEARDS:
        assert (black(beard) != lines).mean() < 0.02, beard


HASHES = """
import hashlib
from igerg_jax.data.builders import chitchat_peeps, source
turns = chitchat_peeps.DATASET.splits("tiny", source.Options("", "", "", 0.0))
for split in turns.values():
    print(*(hashlib.sha256(split.image(i)).hexdigest() for i in (0, 7, 0)))
"""


def test_an_image_is_a_pure_function_of_its_turn(capsys):
    """In every process: in one whose hash of strings is not this one's, too."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", HASHES],
        env=os.environ | {"PYTHONHASHSEED": seed},
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    exec(HASHES, {})
    assert capsys.readouterr().out == there
    for line in there.splitlines():
        first, other, again = line.split()
        assert first == again != other


def test_images_are_jpegs_of_the_documented_size(full):
    for turns in full.values():
        with Image.open(io.BytesIO(turns.image(3))) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.size == (peeps.IMAGE_PIXELS, peeps.IMAGE_PIXELS)


def test_every_attribute_of_a_face_varies():
    picked = [peeps.pick("train", EMOTION_ID["joy"], random.Random(i)) for i in range(400)]
    for field, least in dict(
        head=27, expression=12, beard=13, glasses=4, skin=5, hair=8, clothing=7
    ).items():
        assert len({getattr(peep, field) for peep in picked}) == least, field
    assert len({peeps.draw(PERSON, random.Random(i)) for i in range(50)}) == 50


def test_a_mirrored_face_is_mirrored():
    place = drawing.Place((0.5, 0.5), scale=1.0, degrees=0.0, mirrored=True)
    mirrored = np.asarray(drawing.render(PERSON, place, WHITE, 64), int)
    assert np.abs(mirrored[:, ::-1] - pixels(PERSON)).mean() < 1


def test_test_style_has_the_chats_of_test_with_all_openmoji_faces(rows):
    chats = [[(r["conversation"], r["text"], r["emotion"]) for r in rows[s]] for s in rows]
    assert chats[3] == chats[2]
    for row in rows["test_style"]:
        named = EMOTIONS[row["emotion"]]
        assert any(row["expression"] in by[named] for by in open_moji.GLYPHS.values())
    every = "".join("".join(by.values()) for by in open_moji.GLYPHS.values())
    assert len({row["expression"] for row in rows["test_style"]}) > 0.9 * len(every)


def test_the_tfds_builder_encodes_a_turn(full, rows, tmp_path):
    builder = tfds_builder.make("chitchat_peeps/full", options(tmp_path))
    assert str(builder.version) == builders.version("chitchat_peeps")
    for split, turns in full.items():
        row = rows[split][5]
        example = row | {"image": io.BytesIO(turns.image(5))}
        assert set(example) == set(builder.info.features)
        encoded = builder.info.features.encode_example(example)
        assert encoded["expression"] == row["expression"] and encoded["head"] == row["head"]


def test_the_dataset_credits_its_authors():
    info = builders.info("chitchat_peeps")
    assert all(name in info.license for name in ("MIT", "CC0", "Pablo Stanley", "CC BY-SA 4.0"))
    assert all(name in info.citation for name in ("chitchat", "open_peeps", "openmoji"))


def test_a_missing_package_is_reported_with_its_name(monkeypatch):
    monkeypatch.setattr(drawing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install dicebear-styles"):
        drawing.definition_path()


def test_the_sheet_shows_every_expression_once():
    shown = [expression for _, entries in draw_faces.sheet_rows() for expression, _ in entries]
    used = {e for by in peeps.EXPRESSIONS.values() for listed in by.values() for e in listed}
    assert len(shown) == len(set(shown))
    assert set(shown) == used | set(drawing.names("expression"))


def test_the_documented_faces_are_those_that_the_command_draws():
    folder = pathlib.Path(__file__).parents[2] / "docs" / "faces"
    for emotion in EMOTIONS:
        with (
            Image.open(folder / f"{emotion}.jpg") as kept,
            Image.open(io.BytesIO(draw_faces.example(emotion))) as drawn,
        ):
            difference = np.asarray(kept, int) - np.asarray(drawn, int)
        assert np.abs(difference).mean() < 4, emotion  # JPEG libraries differ a little
