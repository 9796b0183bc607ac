"""Nothing of the raw files is left out without being counted, and nothing shifts."""

import codecs
import io
import json
import math
import os
import zipfile

import numpy as np
import pytest
import raw_data
from PIL import Image

from igerg_jax.batch import EMOTIONS, UNKNOWN
from igerg_jax.data import builders, image_files, store, writer
from igerg_jax.data.builders import labelled_folders, meld, source
from igerg_jax.data.images import find_files
from igerg_jax.errors import UserError

HEADER = "emotion,pixels,Usage\n"


def splits(dataset, manual_dir):
    return builders.splits(dataset, source.Options("unused", str(manual_dir), "", 0.0))


def names(turns):
    return {turns.row(i)["image_id"] for i in range(len(turns))}


def texts(turns):
    return [turns.row(i)["text"] for i in range(len(turns))]


def put_images(folder, *files):
    for seed, name in enumerate(files):
        raw_data.put(folder / name, raw_data.jpeg(seed))


ODD_NAMES = ("x (1).jpg", "im-3.jpg", "a.b.png", "ü ö.JPEG", "deep/er/y.jfif")


@pytest.mark.parametrize("layout", ["folder", "zip"])
def test_fer2013_takes_faces_of_any_name(tmp_path, layout):
    faces = [f"{split}/happy/{name}" for split in ("train", "validation") for name in ODD_NAMES]
    faces += ["test/sad/1.jpg", "test/sad/PublicTest_7.jpg", "Train/Fear/2.png"]
    beside = ["train/happy/._x.jpg", "train/happy/notes.txt", "train/readme", "train/pets/cat.jpg"]
    beside += ["eval/sad/1.jpg", "testing/sad/2.jpg", "testing/3.jpg", "stray.jpg", ".hidden/4.jpg"]
    if layout == "zip":
        put_zip(tmp_path / "fer2013.zip", [f"test/archive/{name}" for name in faces + beside])
    else:
        put_images(tmp_path, *faces, *beside)
    found = splits("fer2013", tmp_path)
    taken = {
        split: {n.removeprefix("test/archive/") for n in names(t)} for split, t in found.items()
    }
    assert taken == {
        "train": {n for n in faces if n.lower().startswith("train")},
        "valid": {n for n in faces if n.startswith("validation")} | {"test/sad/PublicTest_7.jpg"},
        "test": {"test/sad/1.jpg"},
    }
    expected = {".txt": 1, "no ending": 1, "images in a folder 'pets'": 1}
    if layout == "zip":  # all are below test/archive
        assert found["test"].passed_over == {"images in a folder 'archive'": 4}
    else:
        expected |= {
            "images in a folder 'eval' that names no split": 1,
            "images in a folder 'testing' that names no split": 2,
            labelled_folders.NO_EMOTION: 1,
        }
    assert found["train"].passed_over == expected


@pytest.mark.parametrize("layout", ["folder", "zip"])
@pytest.mark.parametrize("public", [True, False])
def test_fer2013_takes_folders_named_by_usage(tmp_path, layout, public):
    faces = ["Training/happy/1.jpg", "PrivateTest/sad/3.jpg", "PrivateTest/4.jpg"]
    faces += ["PublicTest/happy/2.jpg"] * public
    if layout == "zip":
        put_zip(tmp_path / "fer2013.zip", faces)
    else:
        put_images(tmp_path, *faces)
    found = splits("fer2013", tmp_path)
    taken = {split: names(turns) for split, turns in found.items()}
    valid = {"valid": {"PublicTest/happy/2.jpg"}} if public else {}
    assert taken == valid | {"train": {"Training/happy/1.jpg"}, "test": {"PrivateTest/sad/3.jpg"}}
    assert found["test"].passed_over == {labelled_folders.NO_EMOTION: 1}


def test_what_is_beside_the_splits_is_counted_for_one_that_has_images(tmp_path, monkeypatch):
    put_images(tmp_path, "train/stray.jpg", "test/joy/1.jpg", "eval/joy/2.jpg", "lost+found/3.jpg")
    (tmp_path / "up").symlink_to(tmp_path.parent)
    find = image_files.find

    def refuse(folder):
        if folder.name == "lost+found":
            raise UserError("cannot read it")
        return find(folder)

    monkeypatch.setattr(image_files, "find", refuse)
    (test,) = splits("emotion_folder", tmp_path).values()
    assert names(test) == {"test/joy/1.jpg"}
    assert test.passed_over == {
        labelled_folders.NO_EMOTION: 1,
        "images in a folder 'eval' that names no split": 1,
        labelled_folders.UNREADABLE: 1,
        image_files.CYCLE: 1,
    }


def put_zip(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(entries):
            archive.writestr(name, raw_data.jpeg(seed))


def test_folders_take_what_pillow_reads_and_follow_links(tmp_path):
    mine, pool = tmp_path / "mine", tmp_path / "pool"
    endings = ("jpg", "jfif", "webp", "bmp", "tif", "gif", "PNG", "jp2")
    for ending in endings:
        raw_data.put(mine / "train" / "joy" / f"a.{ending}", raw_data.jpeg(1))
    put_images(pool, "one.jpg", "two.jpg", "._two.jpg", "Thumbs.db")
    (mine / "train" / "fear").symlink_to(pool)  # a class
    (mine / "train" / "joy" / "more").symlink_to(pool)  # inside one
    (mine / "train" / "joy" / "back").symlink_to(mine)  # a cycle
    (pool / "self").symlink_to(pool)
    (mine / "train" / "joy" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(mine / "train" / "joy" / "pipe.jpg")
    put_images(mine, "train/stray.jpg")
    train = splits("emotion_folder/mine", tmp_path)["train"]
    joy = {f"a.{ending}" for ending in endings} | {"more/one.jpg", "more/two.jpg", "gone.jpg"}
    assert names(train) == {f"train/joy/{n}" for n in joy} | {
        "train/fear/one.jpg",
        "train/fear/two.jpg",
    }
    assert train.passed_over == {
        image_files.CYCLE: 3,
        image_files.NOT_REGULAR: 1,
        ".db": 2,
        labelled_folders.NO_EMOTION: 1,
    }
    missing = [train.row(i)["image_id"] for i in range(len(train)) if train.image(i) is None]
    assert missing == ["train/joy/gone.jpg"]
    for pattern in (mine, mine / "**" / "*"):
        files = find_files(str(pattern))
        assert set(files.names) == names(train) | {"train/stray.jpg"}
        assert files.passed_over[".db"] == 2


def test_preparing_says_what_was_taken_and_names_what_is_broken(tmp_path, capsys):
    put_images(tmp_path / "raw", *(f"train/joy/{i}.jpg" for i in range(3)), "train/joy/a.txt")
    raw_data.put(tmp_path / "raw" / "train" / "joy" / "bad.jpg", b"no image")
    (tmp_path / "raw" / "train" / "joy" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    options = source.Options("unused", str(tmp_path / "raw"), "", 0.0)
    writer.turns("emotion_folder", options, tmp_path / "out", 1, short_side=0)
    said = capsys.readouterr().err.split("\n")
    assert (
        "emotion_folder, train: images: 3 read, 1 missing, 1 broken, 1 passed over (.txt 1)" in said
    )
    assert any("broken: train/joy/bad.jpg: no image in a known format" in line for line in said)
    summary = json.loads((tmp_path / "out" / "turns" / "summary.json").read_text())
    counts = summary["splits"]["train"]
    assert counts["passed_over"] == {".txt": 1} and list(counts["first_broken"]) == [
        "train/joy/bad.jpg"
    ]


def face(value):
    return " ".join([str(value)] * 2304)


def first_pixels(turns):
    images = (Image.open(io.BytesIO(turns.image(i))) for i in range(len(turns)))
    return [int(np.asarray(image)[0, 0]) for image in images]


@pytest.mark.parametrize(
    "table",
    [
        f"{HEADER}3,{face(5)},Training\n0,{face(6)},Training\n",
        f"3,{face(5)},Training\n0,{face(6)},Training\n",  # no header
        f"emotion, Usage, pixels\n3,Training,{face(5)}\n0,Training,{face(6)}\n",  # icml_face_data
        f'Usage,emotion,pixels\r\nTraining,3,"{face(5)}"\r\n\r\nTraining,0,{face(6)}\r\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
def test_a_table_of_faces_is_read_by_the_names_of_its_columns(tmp_path, table, encoding, name):
    raw_data.put(tmp_path / name, table.encode(encoding))
    (train,) = splits("fer2013", tmp_path).values()
    assert [EMOTIONS[e] for e in train.emotions] == ["joy", "anger"]
    assert first_pixels(train) == [5, 6]


@pytest.mark.parametrize(
    "table, says",
    [
        (
            f"{HEADER}-1,{face(5)},Training\n",
            "face 0: the label is '-1', not a whole number from 0 to 6",
        ),
        (f"{HEADER}7,{face(5)},Training\n", "face 0: the label is '7'"),
        (f"-1,{face(5)},Training\n", "face 0: the label is '-1'"),
        (
            f"{HEADER}0,{face(256)},Training\n",
            "face 0: a pixel is '256', not a whole number from 0 to 255",
        ),
        (f"{HEADER}0,{face(-1)},Training\n", "face 0: a pixel is '-1'"),
        (f"{HEADER}0,{face('x')},Training\n", "face 0: .*'x'"),
        (f"{HEADER}0,1 2 3,Training\n", "face 0: 3 pixels, not 2304"),
        (f"{HEADER}0,{face(5)},Testing\n", "face 0: usage 'Testing' is not one of Training"),
        (f"{HEADER}0,{face(5)}\n", "face 0: 2 columns, not 3"),
        (f"emotion,pixels\n0,{face(5)}\n", "has no column usage"),
        (HEADER, "has no face"),
        ("", "has no column"),
        (f'{HEADER}0,"{face(5)}' + f",{face(5)}" * 40, "before line"),  # a quote never closed
    ],
)
def test_a_table_out_of_bounds_is_refused(tmp_path, table, says):
    raw_data.put(tmp_path / "fer2013.csv", table)
    with pytest.raises(UserError, match=says):
        splits("fer2013", tmp_path)


def test_votes_of_another_face_are_refused(tmp_path):
    raw_data.put(tmp_path / "fer2013.csv", f"{HEADER}3,{face(5)},Training\n")
    header = (
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,"
        "unknown,NF\n"
    )
    path = tmp_path / "fer2013new.csv"
    raw_data.put(path, f"{header}Training,fer0000001.png,9,0,0,0,0,0,0,0,0,1\n")
    with pytest.raises(UserError, match=r"row 0 is of 'fer0000001\.png', not of face 0"):
        splits("fer2013/ferplus", tmp_path)
    raw_data.put(path, f"{header}Training,fer0000000.png,9,0,0,?,0,0,0,0,0,1\n")
    with pytest.raises(
        UserError, match=r"row 0: of the votes, sadness is '\?', not a whole number"
    ):
        splits("fer2013/ferplus", tmp_path)


@pytest.mark.parametrize(
    "dialogues, labels, expected, remarks",
    [  # labels: 1 anger, 4 joy, 5 sadness
        ("a __eou__ __eou__ b __eou__\n", "4 5\n", ["a4", "b5"], 1),
        ("a __eou__ __eou__ b __eou__\n", "4 1 5\n", ["a4", "b5"], 1),
        ("a __eou__ b\n", "4 5\n", ["a4", "b5"], 0),
        ("a __eou__ b\n\nc __eou__\n", "4 5\n1\n", ["a4", "b5", "c1"], 0),
        ("a __eou__ b\nc __eou__\n", "4 5\n\n1\n\n", ["a4", "b5", "c1"], 0),
        ("a\u2028z __eou__ b\x85c __eou__\n", "4 5\n", ["a\u2028z4", "b…c5"], 0),
        ("a __eou__ b __eou__\n", "4 5 1\n", ["a", "b"], 1),
        ("__eou__ __eou__\na __eou__\n", "0\n4\n", ["a4"], 3),
    ],
)
def test_daily_dialog_keeps_words_and_labels_together(
    tmp_path, dialogues, labels, expected, remarks
):
    raw_data.put(tmp_path / "train" / "dialogues_train.txt", dialogues)
    raw_data.put(tmp_path / "train" / "dialogues_emotion_train.txt", labels)
    train = splits("daily_dialog", tmp_path)["train"]
    digit = {"joy": "4", "sadness": "5", "anger": "1"}
    rows = [train.row(i) for i in range(len(train))]
    found = [
        row["text"] + (digit[EMOTIONS[row["emotion"]]] if row["emotion"] != UNKNOWN else "")
        for row in rows
    ]
    assert found == expected and sum(train.remarks.values()) == remarks
    assert rows[0]["episode"] == rows[0]["turn"] == 0
    store.text_columns(rows)  # raises where turns do not follow each other


def test_daily_dialog_in_windows_1252(tmp_path):
    raw_data.put(tmp_path / "train" / "dialogues_train.txt", b"don\x92t __eou__ \xc2\x93b\xc2\x94")
    raw_data.put(tmp_path / "train" / "dialogues_emotion_train.txt", "4 5")
    assert texts(splits("daily_dialog", tmp_path)["train"]) == ["don’t", "“b”"]


def test_image_chat_without_words(tmp_path):
    chats = [
        {"image_hash": "aa", "dialog": [["Sweet", None], [None, "Hi\x92s"], ["Grim", "No"]]},
        {"image_hash": "bb", "dialog": [["Sweet", None]]},
        {"image_hash": "cc", "dialog": [["Sweet", "Yes"]]},
    ]
    raw_data.put(tmp_path / "train.json", json.dumps(chats))
    put_images(tmp_path / "yfcc_images", "aa.jpg", "zz.jpg", "cc.png", "a.txt")
    (turns,) = splits("image_chat", tmp_path).values()
    assert turns.passed_over == {image_files.UNNAMED: 2, ".txt": 1}
    raw_data.put(tmp_path / "valid.json", '[{"image_hash": "zz", "dialog": [["Sweet", "Oh"]]}]')
    both = splits("image_chat", tmp_path)
    assert both["train"].passed_over == {image_files.UNNAMED: 1, ".txt": 1}
    assert not both["valid"].passed_over
    (tmp_path / "valid.json").unlink()
    rows = [turns.row(i) for i in range(len(turns))]
    assert [(r["text"], r["speaker"], r["episode"], r["turn"]) for r in rows] == [
        ("Hi’s", "B", 0, 0),
        ("No", "A", 0, 1),
        ("Yes", "A", 1, 0),
    ]
    assert list(turns.remarks.values()) == [2]
    raw_data.put(tmp_path / "train.json", '[{"image_hash": "aa", "dialog": [["a", 3]]}]')
    with pytest.raises(UserError, match=r"train\.json' is not Image-Chat's list.*3 is not a text"):
        splits("image_chat", tmp_path)


def test_meld_takes_an_utterance_once(tmp_path):
    rows = [("a", "R", "joy", 0, 0), ("b", "R", "fear", 0, 1), ("other", "M", "anger", 0, 0)]
    raw_data.put(tmp_path / "train_sent_emo.csv", raw_data.meld_csv(rows))
    put_images(tmp_path / "frames" / "train", "dia0_utt0.jpg", "dia0_utt0.webp", "dia7_utt0.jpg")
    put_images(tmp_path / "frames" / "train", "dia0_utt1.bmp", "dia0_utt1 (1).jpg", "a.txt")
    put_images(tmp_path / "frames" / "train" / "more", "dia0_utt1.jpg")
    turns = splits("meld/frames", tmp_path)["train"]
    assert texts(turns) == ["a", "b"] and list(turns.remarks.values()) == [1]
    assert turns.image(0) == raw_data.jpeg(0) and turns.image(1)
    assert sorted(turns.passed_over.values()) == [1, 1, 1, 1, 1]
    assert turns.passed_over["folders that are not looked into"] == 1


def clip(path, frames, per_second):
    """A clip that grows brighter with each frame."""
    av = pytest.importorskip("av", reason="PyAV reads clips: pip install 'igerg_jax[video]'")
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=per_second)
        stream.width = stream.height = 32
        for number in range(frames):
            array = np.full((32, 32, 3), number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(array)):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def test_meld_shows_the_middle_of_the_utterance_not_of_its_clip(tmp_path):
    path = clip(tmp_path / "long.mp4", 240, 2)  # two minutes

    def brightness(seconds):
        return np.asarray(Image.open(io.BytesIO(meld.middle_frame(path, seconds)))).mean()

    assert abs(brightness(20.0) - 20) < 6
    for unknown in (math.nan, -3.0, 0.0, 600.0):
        assert abs(brightness(unknown) - 120) < 6, unknown
    raw_data.put(tmp_path / "train_sent_emo.csv", raw_data.meld_csv([("a", "R", "joy", 0, 0)]))
    path.rename(raw_data.put(tmp_path / "train_splits" / "dia0_utt0.mp4", b""))
    image = splits("meld/frames", tmp_path)["train"].image(0)  # of 5.7 seconds, says the table
    assert np.asarray(Image.open(io.BytesIO(image))).mean() < 15
    playlist = tmp_path / "other.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {path.name}\n")
    assert meld.middle_frame(playlist) == b""


def test_blank_or_strange_files_are_user_errors(tmp_path):
    raw_data.put(tmp_path / "train_sent_emo.csv", "")
    with pytest.raises(UserError, match="has no column Utterance"):
        splits("meld", tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        source.read_text(tmp_path)


def test_images_that_no_list_names_are_counted(tmp_path):
    raw_data.put(tmp_path / "EmoLabel" / "list_patition_label.txt", "train_1 (2).jpg 4\n")
    put_images(tmp_path / "Image" / "original", "train_1 (2).jpg", "train_2.jpg", "a.txt")
    (train,) = splits("emotion_folder", tmp_path).values()
    assert train.row(0)["emotion"] == EMOTIONS.index("joy") and train.image(0) == raw_data.jpeg(0)
    assert train.passed_over == {"images that are not in the list": 1, ".txt": 1}


def test_lines_of_no_dialogue_are_counted(tmp_path):
    text = b"it\x92s one\x85\nnobody's\ntwo\xe2\x80\xa8half\n"
    raw_data.put(tmp_path / "train.dialogue.jsonl", "[0, 2]\n")
    put_images(tmp_path / "train_images", "0.jpg", "1.jpg", "2.png", "02.jpg", "7.jpg", "a.txt")
    for mark in (b"", codecs.BOM_UTF8):
        raw_data.put(tmp_path / "train.origin.txt", mark + text)
        (train,) = splits("openvidial/v1", tmp_path).values()
        assert texts(train) == ["it’s one…", "two\u2028half"]
        assert list(train.remarks.values()) == [1]
        assert train.passed_over == {image_files.UNNAMED: 4, ".txt": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lines_that_do_not_end_with_one_byte_are_refused(tmp_path, encoding):
    raw_data.put(tmp_path / "train.origin.txt", "one\ntwo\n".encode(encoding))
    raw_data.put(tmp_path / "train.dialogue.jsonl", "[0, 1]\n")
    (tmp_path / "train_images").mkdir()
    with pytest.raises(UserError, match=r"origin\.txt' is in UTF-.*: convert it to UTF-8"):
        splits("openvidial/v1", tmp_path)
    (tmp_path / "train.origin.txt").unlink()
    (tmp_path / "train.origin.txt").mkdir()
    with pytest.raises(UserError, match=r"cannot read '.*origin\.txt': it is not a regular file"):
        splits("openvidial/v1", tmp_path)


def test_empathetic_dialogues_are_put_in_order_and_rows_left_out_are_counted(tmp_path):
    lines = [
        "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags",
        "c1,2,terrified,A dog,9,Were you ok?,1,",
        "c1,10,terrified,A dog,4,In the end,1,",
        "c2,1,blissful,Sun,5,Warm,1,",  # not one of the 32
        "c2,2,blissful,Sun,6,Nice,1,",
        "c3,1,sad,Rain,7,,1,",
        "c3,2,sad,Rain,8, ,1,",
        "c4,1,sad,Rain,7,,1,",
        "c4,2,sad,Rain,8,Oh no,1,",
        "c4,3,sad,Rain,7,Yes,1,",
        "c1,1,terrified,A dog,4,It barked,1,",  # after others
        "c1,1,terrified,A dog,4,It barked again,1,",
    ]
    path = tmp_path / "train.csv"
    raw_data.put(path, "\n".join(lines) + "\n")
    (train,) = splits("empathetic_dialogues", tmp_path).values()
    rows = [train.row(i) for i in range(len(train))]
    assert [(r["episode"], r["turn"], r["text"], r["speaker"], r["emotion"]) for r in rows] == [
        (0, 0, "It barked", "4", EMOTIONS.index("fear")),
        (0, 1, "Were you ok?", "9", UNKNOWN),
        (0, 2, "In the end", "4", EMOTIONS.index("fear")),
        (1, 0, "Warm", "5", UNKNOWN),
        (1, 1, "Nice", "6", UNKNOWN),
        (2, 0, "Oh no", "8", UNKNOWN),
        (2, 1, "Yes", "7", EMOTIONS.index("sadness")),
    ]
    counts = {what.split(maxsplit=1)[0]: n for what, n in train.remarks.items()}
    assert counts == {"rows": 1, "utterances": 3, "turns": 1}
    raw_data.put(path, f"{lines[0]}\nc1,one,sad,Rain,7,Oh,1,\n")
    with pytest.raises(UserError, match=r"line 2: utterance_idx is 'one', not a whole number"):
        splits("empathetic_dialogues", tmp_path)


def test_faces_that_no_turn_may_have_are_counted(tmp_path):
    raw_data.meld(tmp_path, dialogues=2)
    raw_data.fer_zip(tmp_path)
    with zipfile.ZipFile(tmp_path / "fer2013.zip", "a") as archive:
        archive.writestr("train/fear/Training_empty.jpg", b"")
        twin = archive.read("test/fear/PublicTest_000002.jpg")
        archive.writestr("train/fear/Training_twin.jpg", twin)
    found = splits("paired/meld+fer2013", tmp_path)
    assert sorted(found["train"].remarks.values()) == [1, 1]
    assert not found["valid"].remarks
