"""MELD, FER2013, folders of images and their pairs, from made-up files in the real layouts."""

import collections
import io
import itertools
import math
import os
import pathlib
import zipfile

import numpy as np
import pytest
import raw_data
from ml_collections import ConfigDict
from PIL import Image

from igerg_jax.batch import EMOTION_ID, EMOTIONS, UNKNOWN
from igerg_jax.data import builders, mixtures
from igerg_jax.data.builders import source, tfds_builder
from igerg_jax.data.builders.fer2013 import majority
from igerg_jax.data.builders.meld import seconds
from igerg_jax.errors import UserError

REAL = pathlib.Path(
    os.environ.get("IGERG_JAX_REAL_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")
)
needs_meld = pytest.mark.skipif(
    not (REAL / "MELD.Raw" / "train_sent_emo.csv").exists(), reason=f"no MELD.Raw in {REAL}"
)
needs_fer = pytest.mark.skipif(
    not (REAL / "fer2013.zip").exists(), reason=f"no fer2013.zip in {REAL}"
)


def splits(dataset, manual_dir, data_dir="unused"):
    return builders.splits(dataset, source.Options(str(data_dir), str(manual_dir), "", 0.0))


def emotions(turns):
    return {EMOTIONS[e]: n for e, n in enumerate(np.bincount(turns.emotions, minlength=7))}


def by_tfds(dataset, manual_dir, data_dir):
    """{split: examples} of the TFDS dataset."""
    options = source.Options(str(data_dir), str(manual_dir), "", 0.0)
    builder = tfds_builder.make(dataset, options)
    builder.download_and_prepare()
    sources = {name: builder.as_data_source(name) for name in builder.info.splits}
    return {name: found.__getitems__(range(len(found))) for name, found in sources.items()}


def test_meld_sorts_renumbers_and_keeps_the_ids(tmp_path):
    rows = [
        ("b", "Ross", "joy", 3, 7),
        ("a", "Monica", "anger", 3, 2),  # after a gap, and out of order
        ("z", "Joey", "neutral", 1, 0),
        ('He said "no", twice', "Joey", "sadness", 3, 10),
    ]
    raw_data.put(tmp_path / "meld" / "train_sent_emo.csv", raw_data.meld_csv(rows))
    (turns,) = splits("meld", tmp_path).values()
    found = [turns.row(i) for i in range(len(turns))]
    assert [row["text"] for row in found] == ["z", "a", "b", 'He said "no", twice']
    assert [(row["episode"], row["turn"]) for row in found] == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert [(r["dialogue_id"], r["utterance_id"]) for r in found] == [
        (1, 0),
        (3, 2),
        (3, 7),
        (3, 10),
    ]
    assert [EMOTIONS[row["emotion"]] for row in found] == ["neutral", "anger", "joy", "sadness"]
    assert found[0]["start_seconds"] == pytest.approx(16 * 60 + 16.059)


def test_meld_reads_utf8_and_windows_1252_in_one_file(tmp_path):
    lines = raw_data.meld_csv([("It’s", "R", "joy", 0, 0), ("mark", "R", "joy", 0, 1)])
    mixed = b"\xef\xbb\xbf" + lines.replace(b"mark", b"don\x92t \x93hi\x94 caf\xe9")
    raw_data.put(tmp_path / "train_sent_emo.csv", mixed)
    (turns,) = splits("meld", tmp_path).values()
    assert [turns.row(i)["text"] for i in range(2)] == ["It’s", "don’t “hi” café"]


def test_meld_times():
    assert seconds("00:16:16,059") == pytest.approx(976.059)
    assert seconds("1:02:03.5") == pytest.approx(3723.5)
    assert math.isnan(seconds("")) and math.isnan(seconds(None))


def test_meld_frames_are_found_by_their_ids_and_may_be_missing(tmp_path):
    raw_data.meld(tmp_path, dialogues=2)
    for seed, name in enumerate(("dia0_utt1.jpg", "dia1_utt3.png", "dia9_utt9.jpg", "notes.txt")):
        raw_data.put(tmp_path / "MELD.Raw" / "frames" / "train" / name, raw_data.jpeg(seed))
    (tmp_path / "MELD.Raw" / "frames" / "dev").mkdir()
    train = splits("meld/frames", tmp_path)["train"]
    shown = {train.row(i)["image_id"]: train.image(i) for i in range(len(train))}
    assert {name for name, image in shown.items() if image} == {"dia0_utt1", "dia1_utt3"}
    assert shown["dia0_utt1"] == raw_data.jpeg(0)


def test_meld_clips_give_the_frame_in_their_middle(tmp_path):
    av = pytest.importorskip("av", reason="PyAV reads clips: pip install 'igerg_jax[video]'")
    raw_data.meld(tmp_path, dialogues=1)
    folder = tmp_path / "MELD.Raw" / "train_splits"
    folder.mkdir()
    (tmp_path / "MELD.Raw" / "dev_splits_complete").mkdir()
    with av.open(str(folder / "dia0_utt2.mp4"), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for number in range(21):  # grows brighter
            frame = np.full((64, 64, 3), number * 10, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame)):
                clip.mux(packet)
        for packet in stream.encode():
            clip.mux(packet)
    (folder / "dia0_utt3.mp4").write_bytes(b"not a clip")
    train = splits("meld/frames", tmp_path)["train"]
    with Image.open(io.BytesIO(train.image(2))) as image:
        assert abs(np.asarray(image).mean() - 100) < 12
    assert train.image(0) is None and train.image(3) == b""


def test_meld_refuses_other_files(tmp_path):
    with pytest.raises(UserError, match=r"'meld' has no files.*train_sent_emo\.csv.*github\.com"):
        splits("meld", tmp_path)
    path = raw_data.put(tmp_path / "dev_sent_emo.csv", "a,b\n1,2\n")
    with pytest.raises(UserError, match="has no column Utterance"):
        splits("meld", tmp_path)
    path.write_bytes(raw_data.meld_csv([("x", "R", "happyish", 0, 0)]))
    with pytest.raises(UserError, match="row 1: 'happyish' is not one of MELD's"):
        splits("meld", tmp_path)
    path.write_bytes(raw_data.meld_csv([("x", "R", "joy", "", 0)]))
    with pytest.raises(UserError, match="row 1: Dialogue_ID is '', not a whole number"):
        splits("meld", tmp_path)
    path.write_bytes(raw_data.meld_csv([("x", "R", "joy", 0, 0)]) + b'2,"cut o')
    with pytest.raises(UserError, match="row 2 is truncated"):
        splits("meld", tmp_path)
    path.write_bytes(raw_data.meld_csv([("x", "R", "joy", 0, 0)]))
    with pytest.raises(UserError, match="there is no frames/dev"):
        splits("meld/frames", tmp_path)
    with pytest.raises(UserError, match=r"no config 'video'; available: text, frames"):
        splits("meld/video", tmp_path)


@pytest.mark.parametrize("layout", ["zip", "folder"])
def test_fer2013_files(tmp_path, layout):
    names = raw_data.fer_names()
    if layout == "zip":
        raw_data.fer_zip(tmp_path)
    else:
        for seed, name in enumerate(names):
            raw_data.put(tmp_path / "fer2013" / name, raw_data.jpeg(seed))
    found = splits("fer2013", tmp_path)
    assert list(found) == ["train", "valid", "test"]
    for split, usage in (("train", "Training"), ("valid", "PublicTest"), ("test", "PrivateTest")):
        turns = found[split]
        rows = [turns.row(i) for i in range(len(turns))]
        assert len(rows) == 14 and all(usage in row["image_id"] for row in rows)
        for i, row in enumerate(rows):
            assert turns.image(i) == raw_data.jpeg(names.index(row["image_id"]))
            folder = row["image_id"].split("/")[-2]
            expected = {"angry": "anger", "happy": "joy", "sad": "sadness"}.get(folder, folder)
            assert EMOTIONS[row["emotion"]] == expected


def test_fer2013_csv_and_votes(tmp_path):
    rows = raw_data.fer_csv(tmp_path)
    found = splits("fer2013", tmp_path)
    assert {name: len(turns) for name, turns in found.items()} == {
        "train": 8,
        "valid": 3,
        "test": 2,
    }
    order = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
    turns = itertools.chain.from_iterable(
        ((t, i) for i in range(len(t))) for t in (found[s] for s in ("train", "valid", "test"))
    )
    for (split, i), (label, pixels, _) in zip(turns, rows, strict=True):
        assert EMOTIONS[split.row(i)["emotion"]] == order[label]
        with Image.open(io.BytesIO(split.image(i))) as image:
            np.testing.assert_array_equal(np.asarray(image).ravel(), pixels)
    with pytest.raises(UserError, match=r"needs fer2013\.csv and fer2013new\.csv"):
        splits("fer2013/ferplus", tmp_path)
    header = (
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    )
    votes = ["Training,fer0000000.png,1,8,1,0,0,0,0,0,0,0"]
    votes += ["Training,fer0000001.png,5,5,0,0,0,0,0,0,0,0"]
    votes += ["Training,,0,0,0,0,0,0,0,0,0,10"]
    votes += ["Training,fer0000003.png,0,0,0,0,0,0,0,10,0,0"]
    votes += [f"PublicTest,fer{i:07d}.png,0,0,0,9,0,0,0,0,1,0" for i in range(4, 13)]
    raw_data.put(tmp_path / "fer2013new.csv", "\n".join([header, *votes]) + "\n")
    plus = splits("fer2013/ferplus", tmp_path)
    joy, sadness = EMOTION_ID["joy"], EMOTION_ID["sadness"]
    assert plus["train"].emotions.tolist() == [joy, *[UNKNOWN] * 3, *[sadness] * 4]
    assert plus["train"].row(0)["votes"].tolist() == [1, 8, 1, 0, 0, 0, 0, 0, 0, 0]


def test_majority_wants_one_winner():
    votes = np.zeros((3, 10), np.int32)
    votes[0, 4], votes[0, 0] = 6, 4
    votes[1, 4], votes[1, 0] = 5, 5
    votes[2, 8] = 9
    assert majority(votes).tolist() == [EMOTION_ID["anger"], UNKNOWN, UNKNOWN]


def test_fer2013_refuses_what_it_cannot_read(tmp_path):
    with pytest.raises(UserError, match=r"'fer2013' has no files.*fer2013\.zip.*kaggle"):
        splits("fer2013", tmp_path)
    with pytest.raises(UserError, match="manual_dir ''"):
        splits("fer2013", "")
    raw_data.fer_zip(tmp_path)
    raw_data.damage_entries(tmp_path / "fer2013.zip")
    train = splits("fer2013", tmp_path)["train"]
    assert {train.image(i) for i in range(len(train))} == {b""}  # there, but broken
    raw_data.put(tmp_path / "fer2013.zip", b"PK cut off")
    with pytest.raises(UserError, match=r"cannot read .*fer2013\.zip.*download it again"):
        splits("fer2013", tmp_path)
    raw_data.put(tmp_path / "fer2013.csv", "emotion,pixels,Usage\n9,1 2 3,Training\n")
    with pytest.raises(UserError, match=r"fer2013\.csv, face 0"):
        splits("fer2013", tmp_path)


def test_emotion_folder_maps_names_and_asks_about_strange_ones(tmp_path):
    for seed, name in enumerate(
        ["train/Happy/a.jpg", "train/anger/deep/b.PNG", "val/contempt/c.jpg", "test/Awe/d.jpeg"]
    ):
        raw_data.put(tmp_path / "mine" / name, raw_data.jpeg(seed))
    found = splits("emotion_folder/mine", tmp_path)
    assert list(found) == ["train", "valid", "test"]
    assert emotions(found["train"])["joy"] == emotions(found["train"])["anger"] == 1
    assert found["valid"].emotions.tolist() == [UNKNOWN]
    assert EMOTIONS[found["test"].row(0)["emotion"]] == "surprise"
    assert found["test"].row(0)["image_id"] == "test/Awe/d.jpeg"
    assert found["test"].image(0) == raw_data.jpeg(3)
    raw_data.put(tmp_path / "mine" / "train" / "7" / "e.jpg", raw_data.jpeg(9))
    with pytest.raises(UserError, match=r"which emotions are '7'\? Write emotions\.json"):
        splits("emotion_folder/mine", tmp_path)
    raw_data.put(tmp_path / "mine" / "emotions.json", '{"7": "fear", "Happy": null}')
    train = splits("emotion_folder/mine", tmp_path)["train"]
    assert sorted(train.emotions.tolist()) == sorted([UNKNOWN, EMOTION_ID["anger"], 1])
    raw_data.put(tmp_path / "mine" / "emotions.json", '{"7": "glee"}')
    with pytest.raises(UserError, match=r"'glee' is not an emotion; the emotions are: surprise"):
        splits("emotion_folder/mine", tmp_path)


@pytest.mark.parametrize("folder", ["", "basic"])
def test_raf_db_list(tmp_path, folder):
    base = tmp_path / "emotion_folder" / folder
    lines = [f"train_0000{i}.jpg {i}" for i in range(1, 8)] + ["test_0001.jpg 4"]
    raw_data.put(base / "EmoLabel" / "list_patition_label.txt", "\n".join(lines) + "\n")
    for i in range(1, 8):
        path = base / "Image" / "aligned" / f"train_0000{i}_aligned.jpg"
        raw_data.put(path, raw_data.jpeg(i))
    found = splits("emotion_folder", tmp_path)
    wanted = ("surprise", "fear", "disgust", "joy", "sadness", "anger", "neutral")
    assert [EMOTIONS[e] for e in found["train"].emotions] == list(wanted)
    assert [found["train"].image(i) for i in range(7)] == [raw_data.jpeg(i) for i in range(1, 8)]
    assert found["test"].image(0) is None  # counted as missing
    raw_data.put(base / "EmoLabel" / "list_patition_label.txt", "train_1.jpg 8\n")
    with pytest.raises(UserError, match=r"line 1: 'train_1\.jpg 8'"):
        splits("emotion_folder", tmp_path)


@pytest.fixture
def pair(tmp_path):
    raw_data.meld(tmp_path, dialogues=14)
    raw_data.fer_zip(tmp_path)
    return tmp_path


def faces_of(turns):
    return {turns.row(i)["face_id"] for i in range(len(turns))}


def test_a_paired_face_shows_the_turns_emotion_and_stays_in_its_split(pair):
    found = splits("paired/meld+fer2013", pair)
    assert list(found) == ["train", "valid"]
    faces = splits("fer2013", pair)
    label = {
        t.row(i)["image_id"]: t.row(i)["emotion"] for t in faces.values() for i in range(len(t))
    }
    words = splits("meld", pair)
    for name, turns in found.items():
        for i in range(len(turns)):
            row = turns.row(i)
            assert row["text"] == words[name].row(i)["text"]
            assert label[row["face_id"]] == row["emotion"]
        usage = {"train": "Training", "valid": "PublicTest"}[name]
        assert all(usage in face for face in faces_of(turns))
    used = collections.Counter(found["train"].row(i)["face_id"] for i in range(56))
    assert max(used.values()) - min(used.values()) <= 1 and len(used) == 14  # all, as often


def test_pairing_depends_on_the_seed_alone(pair):
    def chosen(dataset):
        turns = splits(dataset, pair)["train"]
        return [turns.row(i)["face_id"] for i in range(len(turns))]

    assert chosen("paired/meld+fer2013") == chosen("paired/meld+fer2013@0")
    assert chosen("paired/meld+fer2013") != chosen("paired/meld+fer2013@1")


def test_faces_never_cross_splits_even_as_copies(pair):
    names = raw_data.fer_names()
    raw_data.fer_zip(pair, [*names, "train/fear/Training_copy.jpg"])
    with zipfile.ZipFile(pair / "fer2013.zip", "a") as archive:
        archive.writestr("train/fear/Training_twin.jpg", raw_data.jpeg(names.index(
            "test/fear/PublicTest_000002.jpg"
        )))  # fmt: skip
    found = splits("paired/meld+fer2013", pair)
    assert "train/fear/Training_twin.jpg" not in faces_of(found["train"])
    assert "train/fear/Training_copy.jpg" in faces_of(found["train"])
    shown = {name: {turns.image(i) for i in range(len(turns))} for name, turns in found.items()}
    assert not shown["train"] & shown["valid"]


def test_splits_without_faces_of_their_own_divide_others(pair):
    rows = [(f"t{i}", "R", raw_data.MELD_EMOTIONS[i % 7], i, 0) for i in range(28)]
    raw_data.put(pair / "MELD.Raw" / "test_sent_emo.csv", raw_data.meld_csv(rows))
    raw_data.fer_zip(pair, [n for n in raw_data.fer_names(12) if "PrivateTest" not in n])
    found = splits("paired/meld+fer2013", pair)
    assert all("PublicTest" in face for face in faces_of(found["test"]))
    for one, other in itertools.combinations(found.values(), 2):
        assert not faces_of(one) & faces_of(other)


def test_paired_refuses_what_does_not_fit(pair):
    wrong = ["meld", "meld+", "meld+fer2013+meld", "meld+fer2013@x", "meld+fer2013@" + "9" * 5000]
    for name in wrong:
        with pytest.raises(UserError, match=r"should be paired/DIALOGUES\+FACES"):
            splits(f"paired/{name}", pair)
    with pytest.raises(UserError, match="'meld' has no faces"):
        splits("paired/meld+meld", pair)
    with pytest.raises(UserError, match="'fer2013' has no dialogues"):
        splits("paired/fer2013+fer2013", pair)
    raw_data.fer_zip(pair, [n for n in raw_data.fer_names() if "disgust" not in n])
    with pytest.raises(UserError, match="no face of disgust in fer2013 for train"):
        splits("paired/meld+fer2013", pair)
    with pytest.raises(UserError, match="unknown dataset 'melt'"):
        splits("paired/melt+fer2013", pair)


@pytest.mark.parametrize("dataset", ["meld", "meld/frames", "fer2013", "paired/meld+fer2013"])
def test_tfds_gives_the_same_turns(pair, dataset, tmp_path, capsys):
    for name in ("train", "dev"):
        frame = pair / "MELD.Raw" / "frames" / name / "dia0_utt1.jpg"
        raw_data.put(frame, raw_data.jpeg(1))
    found = by_tfds(dataset, pair, tmp_path / "tfds")
    said = "meld/frames, train: images: 1 read, 55 missing, 0 broken" in capsys.readouterr().err
    assert said == (dataset == "meld/frames")
    turns = splits(dataset, pair)
    assert found.keys() == turns.keys()
    for name, examples in found.items():
        assert len(examples) == len(turns[name])
        for i, example in enumerate(examples):
            row = turns[name].row(i)
            assert example["text"].decode() == row["text"] and example["turn"] == row["turn"]
            assert example["emotion"] == row["emotion"]
            images = [example["image"]] if "image" in example else example.get("images", [])
            expected = turns[name].image(i) if turns[name].image_keys[i] >= 0 else None
            assert len(images) == (expected is not None)
            for image in images:
                with Image.open(io.BytesIO(expected)) as stored:
                    grey = np.asarray(stored.convert("RGB"), int)
                np.testing.assert_allclose(image.astype(int), grey, atol=3)


@pytest.mark.parametrize("name", sorted(builders.MODULES))
def test_a_dataset_says_whose_it_is_and_what_it_needs(name):
    raw, _ = builders.find(name)
    info = raw.info
    assert info.description and info.license and info.files and raw.version
    if name != "paired":  # the two datasets say it
        assert "@" in info.citation and info.homepage.startswith("http")


def test_a_pair_says_whose_both_are():
    found = builders.info("paired/meld+fer2013")
    for name in ("meld", "fer2013"):
        one = builders.info(name)
        for field in ("citation", "license", "homepage", "files"):
            assert getattr(one, field) in getattr(found, field)


EMBEDDED = ("chitchat_openmoji", "chitchat_peeps")


def test_a_dataset_says_where_its_labels_come_from():
    listed = {n for n in builders.MODULES if builders.find(n)[0].info.labels == source.WORD_LIST}
    assert listed == set(EMBEDDED)
    data = ConfigDict({"dataset": "paired/chitchat_peeps+fer2013", "mixtures": {}})
    data.mixtures.more = ConfigDict({"datasets": {"paired/meld+fer2013": 1.0, "fer2013": 1.0}})
    by_name = {data.dataset: source.WORD_LIST, "paired/meld+fer2013": "annotators", "fer2013": ""}
    assert mixtures.labels(data) == by_name


MANUAL = [n for n in sorted(builders.MODULES) if n not in (*EMBEDDED, "paired")]
MANUAL = [n for n in MANUAL if n not in ("go_emotions", "coco_captions")]  # TFDS fetches these


@pytest.mark.parametrize("name", [*MANUAL, "meld/frames", "openvidial/v2_objects"])
def test_without_its_files_a_dataset_says_which_and_where_to_get_them(name, tmp_path):
    with pytest.raises(UserError) as error:
        splits(name, tmp_path)
    message = str(error.value)
    assert message.startswith(f"dataset '{name.split('/')[0]}")
    assert str(tmp_path) in message and "config.data.manual_dir" in message
    assert any(end in message for end in (".csv", ".txt", ".zip", ".json", ".jpg"))
    assert "http" in message or name == "emotion_folder"  # whoever has a folder, has it


@needs_meld
def test_the_real_meld_has_the_published_counts():
    found = splits("meld", REAL)
    assert {n: len(t) for n, t in found.items() if n != "test"} == {"train": 9989, "valid": 1109}
    dialogues = {n: t.row(len(t) - 1)["episode"] + 1 for n, t in found.items()}
    assert (dialogues["train"], dialogues["valid"]) == (1038, 114)
    assert emotions(found["train"]) == {
        "neutral": 4710, "joy": 1743, "surprise": 1205, "anger": 1109, "sadness": 683,
        "disgust": 271, "fear": 268,
    }  # fmt: skip
    assert emotions(found["valid"]) == {
        "neutral": 470, "joy": 163, "surprise": 150, "anger": 153, "sadness": 111, "disgust": 22,
        "fear": 40,
    }  # fmt: skip


@needs_fer
def test_the_real_fer2013_has_the_published_counts():
    found = splits("fer2013", REAL)
    assert emotions(found["train"]) == {
        "anger": 3995, "disgust": 436, "fear": 4097, "joy": 7215, "neutral": 4965, "sadness": 4830,
        "surprise": 3171,
    }  # fmt: skip
    assert emotions(found["valid"]) == {
        "anger": 467, "disgust": 56, "fear": 496, "joy": 895, "neutral": 607, "sadness": 653,
        "surprise": 415,
    }  # fmt: skip
    assert (len(found["train"]), len(found["valid"])) == (28709, 3589)


@needs_meld
@needs_fer
@pytest.mark.slow
def test_the_real_pair_keeps_every_turn_and_shares_no_face():
    found = splits("paired/meld+fer2013", REAL)
    words = splits("meld", REAL)
    for name in ("train", "valid"):
        assert emotions(found[name]) == emotions(words[name])
    shown = [{t.image(i) for i in range(len(t))} for t in (found["train"], found["valid"])]
    assert not shown[0] & shown[1]
