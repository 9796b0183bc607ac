"""Fields of raw files that hold something else than they should: refused by name, or counted."""

import contextlib
import json
import os
import zipfile

import numpy as np
import pytest
import raw_data

from igerg_jax.data import builders, prepare
from igerg_jax.data.builders import source
from igerg_jax.errors import UserError

DIGITS = "9" * 5000  # more than Python's int reads
PIXELS = " ".join(["7"] * 2304)
VOTES = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def splits(dataset, manual_dir):
    return builders.splits(dataset, source.Options("unused", str(manual_dir), "", 0.0))


@pytest.mark.parametrize("text, number", [("0", 0), (" 07 ", 7), ("0" * 5000 + "12", 12)])
def test_a_whole_number(text, number):
    assert source.whole_number(text, "it", 12) == number


@pytest.mark.parametrize("text", ["", "-1", "1.0", "1_0", "٣", "1e1", "13", DIGITS, "nan"])
def test_what_is_no_whole_number_is_named_and_cut_short(text):
    with pytest.raises(ValueError, match=r"^it is '.*', not a whole number from 0 to 12$") as error:
        source.whole_number(text, "it", 12)
    assert len(str(error.value)) < 70


def meld(folder, dialogue="0", start="00:00:01,000"):
    row = f'1,"Hi",Ross,joy,neutral,{dialogue},0,8,21,"{start}","00:00:02,000"'
    raw_data.put(folder / "train_sent_emo.csv", f"{raw_data.MELD_HEADER}\n{row}\n")


@pytest.mark.parametrize("number", [DIGITS, "1" + "0" * 30, "3000000000", "1.0", "x"])
def test_a_number_in_a_table_that_is_none_is_refused(number, tmp_path):
    meld(tmp_path, dialogue=number)
    with pytest.raises(UserError, match=r"emo\.csv', row 1: Dialogue_ID is '.*not a whole number"):
        splits("meld", tmp_path)
    raw_data.put(tmp_path / "fer2013.csv", f"emotion,pixels,Usage\n{number},{PIXELS},Training\n")
    with pytest.raises(UserError, match=r"face 0: the label is '.*not a whole number from 0 to 6"):
        splits("fer2013", tmp_path)
    raw_data.put(tmp_path / "fer2013.csv", f"emotion,pixels,Usage\n3,{PIXELS},Training\n")
    raw_data.put(tmp_path / "fer2013new.csv", f"{VOTES}\nx,fer0000000.png,{number}{',0' * 9}\n")
    with pytest.raises(UserError, match=r"row 0: of the votes, neutral is '.*not a whole number"):
        splits("fer2013/ferplus", tmp_path)
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
    raw_data.put(tmp_path / "train.csv", f"{header}\nc,{number},sad,A dog,1,It barked,5,\n")
    with pytest.raises(UserError, match=r"line 2: utterance_idx is '.*not a whole number"):
        splits("empathetic_dialogues", tmp_path)


@pytest.mark.parametrize("time", ["soon", DIGITS + ":00:00,000", "00:01,5"])
def test_times_that_cannot_be_read_are_counted(time, tmp_path):
    meld(tmp_path)
    assert not splits("meld", tmp_path)["train"].remarks
    meld(tmp_path, start=time)
    turns = splits("meld", tmp_path)["train"]
    assert np.isnan(turns.row(0)["start_seconds"]) and turns.row(0)["end_seconds"] == 2
    assert turns.remarks == {
        "utterances have times that cannot be read; of a clip its middle is shown": 1
    }


TURNS = [["Sweet", "Nice!"]]
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        '{"a": 1}',
        "null",
        json.dumps([{"image_hash": "aa", "dialog": ["ab", "cd"]}]),  # two letters each
        json.dumps([{"image_hash": "aa", "dialog": {"ab": 1}}]),
        json.dumps([{"image_hash": "../../photo", "dialog": TURNS}]),
        json.dumps([{"image_hash": "\ud83d", "dialog": TURNS}]),
        '[{"image_hash": ' + DIGITS + ', "dialog": []}]',
    ],
)
def test_json_of_another_form_is_no_list_of_chats(content, tmp_path):
    raw_data.put(tmp_path / "train.json", content)
    (tmp_path / "yfcc_images").mkdir()
    with pytest.raises(UserError, match=r"train\.json' is not Image-Chat's list") as error:
        splits("image_chat", tmp_path)
    assert len(str(error.value)) < 500


def test_half_a_surrogate_pair_does_not_leave_the_reader(tmp_path):
    chats = [{"image_hash": "aa", "dialog": [["Sweet", "so \ud83d nice \U0001f600"]]}]
    raw_data.put(tmp_path / "train.json", json.dumps(chats))
    (tmp_path / "yfcc_images").mkdir()
    text = splits("image_chat", tmp_path)["train"].row(0)["text"]
    assert text == "so ? nice \U0001f600"


@pytest.mark.parametrize(
    "line", ["[0.5]", '["0"]', "[true]", '{"0": 1}', '"01"', DEEP, f"[{DIGITS}]", "[NaN]", "0"]
)
def test_turn_ids_are_whole_numbers_in_a_list(line, tmp_path):
    raw_data.put(tmp_path / "train.origin.txt", "zero\none\n")
    raw_data.put(tmp_path / "train.dialogue.jsonl", f"[0]\n{line}\n")
    (tmp_path / "train_images").mkdir()
    with pytest.raises(UserError, match=r"dialogue\.jsonl', line 2: not a list of turn ids"):
        splits("openvidial/v1", tmp_path)


def put_vectors(folder):
    raw_data.put(folder / "train.src.txt", "a\nb\nc\nd\n")
    np.save(folder / "train.sent_num.npy", np.array([2, 2]))
    np.save(folder / "train.offsets.npy", np.array([0.0, 2.0]))  # whole, though not in type
    vectors = np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32)
    vectors.tofile(folder / "train.features.mmap")
    return vectors


NOT_WHOLE = [np.array(a) for a in ([1.5, 2], [np.nan, 1], [True, True], ["1", "2"], [2j, 1], 2)]


@pytest.mark.parametrize("array", [*NOT_WHOLE, np.array([[2, 2]]), np.zeros(2, [("a", "i4")]), b""])
def test_arrays_of_whole_numbers(array, tmp_path):
    put_vectors(tmp_path)
    assert len(splits("openvidial/v1_features", tmp_path)["train"]) == 4
    path = tmp_path / "train.sent_num.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    else:
        np.save(path, array)
    with pytest.raises(UserError, match=r"cannot read '.*train\.sent_num\.npy'"):
        splits("openvidial/v1_features", tmp_path)


def test_a_vector_that_is_not_finite_is_broken(tmp_path, tiny_config, capsys):
    vectors = put_vectors(tmp_path)
    vectors[1, 7], vectors[2, 0] = np.nan, np.inf
    vectors.tofile(tmp_path / "train.features.mmap")
    config = tiny_config.copy_and_resolve_references()
    config.data.update(dataset="openvidial/v1_features", feature_dim=1000)
    config.data.update(manual_dir=str(tmp_path), data_dir=str(tmp_path / "data"))
    config.data.tokenizer.update(vocab_size=266)
    split = prepare.prepare(config).split("train")
    assert split.turns.image.tolist() == [0, source.NO_IMAGE, source.NO_IMAGE, 1]
    np.testing.assert_array_equal(split.turns.read_features([0, 1]), vectors[[0, 3]])
    said = capsys.readouterr().err
    assert "images: 2 read, 0 missing, 2 broken" in said
    assert "broken: that of turn 1: it holds NaN or infinity" in said


PIPES = {
    "fer2013": "fer2013.zip",
    "daily_dialog": "train.zip",
    "openvidial/v1": "train.dialogue.jsonl",
    "openvidial/v1_features": "train.offsets.npy",
}


@pytest.mark.parametrize("dataset", PIPES)
def test_a_pipe_is_not_waited_for(dataset, tmp_path):
    put_vectors(tmp_path)
    raw_data.put(tmp_path / "train.origin.txt", "zero\n")
    path = tmp_path / PIPES[dataset]
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"train/dialogues_train\.txt|it is not a regular file"):
        splits(dataset, tmp_path)


def test_an_archive_of_labels_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "labels-00000.npz")
    with pytest.raises(UserError, match=r"labels-00000\.npz': it is not a regular file"):
        builders.pseudo_labels.read(tmp_path)


@pytest.mark.parametrize("mapping", ['{"grin": ["joy"]}', '{"grin": {"a": 1}}', '{"grin": 3}'])
def test_an_emotion_that_is_no_name_is_refused(tmp_path, mapping):
    raw_data.put(tmp_path / "train" / "grin" / "1.jpg", raw_data.jpeg(0))
    raw_data.put(tmp_path / "emotions.json", mapping)
    with pytest.raises(UserError, match=r"emotions\.json': .* is not an emotion; the emotions are"):
        splits("emotion_folder", tmp_path)


def test_an_image_that_raf_db_lists_twice_is_taken_once(tmp_path):
    lines = "train_1.jpg 4\ntrain_2.jpg 1\ntrain_1.jpg 5\ntest_1.jpg 1\n"
    raw_data.put(tmp_path / "EmoLabel" / "list_patition_label.txt", lines)
    raw_data.put(tmp_path / "Image" / "aligned" / "train_1_aligned.jpg", raw_data.jpeg(0))
    found = splits("emotion_folder", tmp_path)
    assert found["train"].emotions.tolist() == [3, 0]  # of joy and sadness, the first
    assert [*found["train"].remarks.values()] == [1] and not found["test"].remarks


def test_an_entry_of_an_archive_that_another_replaces_is_counted(tmp_path):
    with zipfile.ZipFile(tmp_path / "fer2013.zip", "w") as archive:
        for seed, name in enumerate(("1", "2", "1")):
            with contextlib.nullcontext() if seed < 2 else pytest.warns(match="Duplicate name"):
                archive.writestr(f"train/happy/{name}.jpg", raw_data.jpeg(seed))
    train = splits("fer2013", tmp_path)["train"]
    assert len(train) == 2 and [*train.passed_over.values()] == [1]


@pytest.mark.parametrize("layout", ["csv", "zip"])
def test_faces_beside_a_table_are_counted(tmp_path, layout):
    table = f"emotion,pixels,Usage\n3,{PIXELS},Training\n"
    faces = ("train/happy/1.jpg", "test/sad/2.jpg")
    if layout == "csv":
        raw_data.put(tmp_path / "fer2013.csv", table)
        for name in faces:
            raw_data.put(tmp_path / name, raw_data.jpeg(0))
        raw_data.fer_zip(tmp_path)
        expected = 3
    else:
        with zipfile.ZipFile(tmp_path / "fer2013.zip", "w") as archive:
            for name, data in (("fer2013.csv", table), *((name, b"") for name in faces)):
                archive.writestr(name, data)
        expected = 2
    train = splits("fer2013", tmp_path)["train"]
    assert len(train) == 1 and sum(train.passed_over.values()) == expected


@pytest.mark.parametrize(
    "row, message",
    [
        (f"3,{PIXELS.replace(' ', ',')},Training", "face 0: 2306 columns, not 3"),
        (f"3,{PIXELS.replace(' ', ';')},Training", "face 0: a pixel is '7;7;"),
        (f"3,{PIXELS[:-1]}1_0,Training", "face 0: a pixel is '1_0'"),
        (f"3,{PIXELS[:-1]}-1,Training", "face 0: a pixel is '-1', not a whole number from 0 to"),
        (f"3,{PIXELS[:-1]}٣,Training", "face 0: a pixel is '٣'"),
        (f"3,{PIXELS} 7,Training", "face 0: 2305 pixels, not 2304"),
    ],
)
def test_pixels_that_are_no_numbers_are_refused_in_a_short_line(tmp_path, row, message):
    raw_data.put(tmp_path / "fer2013.csv", f"emotion,pixels,Usage\n{row}\n")
    with pytest.raises(UserError, match=message) as error:
        splits("fer2013", tmp_path)
    assert len(str(error.value)) < 120


def test_a_first_line_that_is_no_header_is_cut_short(tmp_path):
    raw_data.put(tmp_path / "fer2013.csv", f"3.0,{PIXELS},Training\n")
    with pytest.raises(UserError, match=r"its first line is '3\.0,7 7.*…'") as error:
        splits("fer2013", tmp_path)
    assert len(str(error.value)) < 180
