"""DailyDialog, EmpatheticDialogues, Image-Chat, GoEmotions and COCO captions, from small files."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import raw_data
from PIL import Image

from igerg_jax.batch import EMOTION_ID, EMOTIONS, UNKNOWN
from igerg_jax.data import builders
from igerg_jax.data.builders import go_emotions, source
from igerg_jax.data.builders.empathetic_dialogues import EMOTION_OF_SITUATION
from igerg_jax.data.images import find_files
from igerg_jax.errors import UserError


def splits(dataset, manual_dir, data_dir="unused"):
    return builders.splits(dataset, source.Options(str(data_dir), str(manual_dir), "", 0.0))


def rows(turns):
    return [turns.row(i) for i in range(len(turns))]


@pytest.fixture
def daily(tmp_path):
    for split in ("train", "validation", "test"):
        folder = tmp_path / "ijcnlp_dailydialog" / split
        texts = "Hi ! __eou__ Oh , no ’ s __eou__ Bah __eou__\nOne __eou__ Two __eou__\n"
        raw_data.put(folder / f"dialogues_{split}.txt", texts)
        raw_data.put(folder / f"dialogues_emotion_{split}.txt", "4 6 2 \n0 1 5 \n")
    return tmp_path / "ijcnlp_dailydialog"


@pytest.mark.parametrize("packed", [False, True])
def test_daily_dialog(daily, packed):
    if packed:  # as they are downloaded
        for split in ("train", "validation", "test"):
            with zipfile.ZipFile(daily / f"{split}.zip", "w") as archive:
                for path in (daily / split).iterdir():
                    archive.write(path, f"{split}/{path.name}")
            shutil.rmtree(daily / split)
    found = splits("daily_dialog", daily.parent)
    assert list(found) == ["train", "valid", "test"]
    train = rows(found["train"])
    assert [row["text"] for row in train] == ["Hi !", "Oh , no ’ s", "Bah", "One", "Two"]
    assert [row["turn"] for row in train] == [0, 1, 2, 0, 1]
    assert [EMOTIONS[row["emotion"]] for row in train[:3]] == ["joy", "surprise", "disgust"]
    # Three labels for two turns: as in a few of the published dialogues.
    assert [row["emotion"] for row in train[3:]] == [UNKNOWN, UNKNOWN]
    (remark,) = found["train"].remarks.items()
    assert remark[0].startswith("dialogues have more or fewer labels") and remark[1] == 1


def test_daily_dialog_refuses_what_is_not_whole(daily, tmp_path):
    with pytest.raises(UserError, match=r"'daily_dialog' has no files.*dialogues_train\.txt"):
        splits("daily_dialog", tmp_path / "nowhere")
    labels = daily / "test" / "dialogues_emotion_test.txt"
    raw_data.put(labels, "4 6 2\n0 -1 7\n")
    with pytest.raises(UserError, match="test: '-1' is not an emotion, in line '0 -1 7'"):
        splits("daily_dialog", daily)
    labels.unlink()
    with pytest.raises(UserError, match=r"has no test/dialogues_emotion_test\.txt"):
        splits("daily_dialog", daily)


def test_empathetic_dialogues(tmp_path):
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
    lines = [
        "hit:0_conv:1,1,terrified,A dog_comma_ big,4,It barked_comma_ a lot,5|5|5_2|2|5,",
        "hit:0_conv:1,2,terrified,A dog_comma_ big,9,Were you ok?,5|5|5_2|2|5,",
        'hit:0_conv:1,3,terrified,A dog_comma_ big,4,"No,5|5|5_2|2|5,',  # an open quote
        "hit:2_conv:7,1,content,Sun,5,Warm,1|1,<GRATITUDE>,more,columns",
    ]
    for split in ("train", "valid", "test"):
        path = tmp_path / "empatheticdialogues" / f"{split}.csv"
        raw_data.put(path, header + "\n".join(lines) + "\n")
    train = rows(splits("empathetic_dialogues", tmp_path)["train"])
    assert [row["text"] for row in train] == ["It barked, a lot", "Were you ok?", '"No', "Warm"]
    assert [(row["episode"], row["turn"]) for row in train] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    fear, joy = EMOTION_ID["fear"], EMOTION_ID["joy"]
    assert [row["emotion"] for row in train] == [fear, UNKNOWN, fear, joy]
    assert train[0]["situation"] == "A dog, big"
    assert len(EMOTION_OF_SITUATION) == 32
    raw_data.put(path, "a,b\n")
    with pytest.raises(UserError, match="does not begin with conv_id"):
        splits("empathetic_dialogues", tmp_path)


def test_image_chat_turns_share_their_photograph(tmp_path):
    chats = [
        {"image_hash": "aa", "dialog": [["Sweet", "Nice!"], ["Grim", "No."], ["Sweet", "Yes"]]},
        {"image_hash": "bb", "dialog": [["Calm", "Hm"]], "candidates": []},
        {"image_hash": "aa", "dialog": [["Odd", "Again"], ["Bold", "Ha"]]},
    ]
    for split in ("train", "valid", "test"):
        raw_data.put(tmp_path / "image_chat" / f"{split}.json", json.dumps(chats))
    raw_data.put(tmp_path / "image_chat" / "yfcc_images" / "aa.jpg", raw_data.jpeg(1))
    turns = splits("image_chat", tmp_path)["valid"]
    found = rows(turns)
    assert [(row["episode"], row["turn"]) for row in found] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1),
    ]  # fmt: skip
    assert found[1]["style"] == "Grim" and found[1]["text"] == "No."
    assert turns.image(0) == turns.image(5) == raw_data.jpeg(1) and turns.image(3) is None
    # As igerg_jax.tools.label_emotions names it, given the dataset's folder.
    assert find_files(str(tmp_path / "image_chat")).names == (found[0]["image_id"],)
    keys = turns.image_keys
    assert len({*keys[[0, 1, 2, 4, 5]]}) == 1 and keys[3] != keys[0]
    raw_data.put(tmp_path / "image_chat" / "test.json", '[{"dialog": [["a", "b"]]}]')
    with pytest.raises(UserError, match=r"test\.json' is not Image-Chat's list"):
        splits("image_chat", tmp_path)


def test_the_published_mapping_covers_the_28_labels_once():
    names = [word for words in go_emotions.EKMAN.values() for word in words.split()]
    assert len(names) == len(set(names)) == 28
    assert go_emotions.one_of_seven(["annoyance", "anger"]) == EMOTION_ID["anger"]
    assert go_emotions.one_of_seven(["curiosity", "joy"]) == UNKNOWN
    assert go_emotions.one_of_seven([]) == UNKNOWN


@pytest.fixture
def downloads(monkeypatch):
    """{what a URL ends with: what a download of it gives}, in place of the network."""
    import tensorflow_datasets as tfds

    found = {}

    def fetch(self, urls):
        if isinstance(urls, dict):
            return {name: fetch(self, url) for name, url in urls.items()}
        return next((p for end, p in found.items() if urls.endswith(end)), "/nowhere")

    for name in ("download", "download_and_extract"):
        monkeypatch.setattr(tfds.download.DownloadManager, name, fetch)
    return found


def test_go_emotions_through_tfds(tmp_path, downloads):
    lines = ["So proud of you!\t21\tx1", "What? No\t3,7\tx2", "It is.\t27\tx3", "ew ew\t11\tx4"]
    for name in ("train", "dev", "test"):
        path = raw_data.put(tmp_path / f"{name}.tsv", "\n".join(lines) + "\n")
        downloads[f"data/{name}.tsv"] = str(path)
    found = splits("go_emotions", "", tmp_path / "data")
    assert set(found) == {"train", "valid", "test"}
    turns = found["train"]
    assert turns.standalone and len(turns) == 4
    by_text = {row["text"]: row for row in rows(turns)}
    expected = {"So proud of you!": "joy", "It is.": "neutral", "ew ew": "disgust"}
    for text, emotion in expected.items():
        assert EMOTIONS[by_text[text]["emotion"]] == emotion
    assert by_text["What? No"]["emotion"] == UNKNOWN  # annoyance and curiosity
    assert by_text["What? No"]["labels"].split() == ["annoyance", "curiosity"]


def test_coco_captions_through_tfds(tmp_path, downloads):
    names = {
        s: [f"COCO_{s}2014_{i:012d}.jpg" for i in range(n)] for s, n in (("train", 2), ("val", 3))
    }
    for split, files in names.items():
        images = []
        for number, name in enumerate(files):
            path = tmp_path / f"{split}2014" / f"{split}2014" / name
            raw_data.put(path, raw_data.jpeg(number + 10 * (split == "val"), 32, "RGB"))
            images.append({"id": number, "file_name": name, "height": 32, "width": 32})
        downloads[f"zips/{split}2014.zip"] = str(tmp_path / f"{split}2014")
        boxes = {"images": images, "categories": [{"id": i, "name": f"c{i}"} for i in range(80)]}
        path = tmp_path / "annotations" / "annotations" / f"instances_{split}2014.json"
        raw_data.put(path, json.dumps(boxes | {"annotations": []}))
    downloads["annotations_trainval2014.zip"] = str(tmp_path / "annotations")
    used = dict(zip(names["val"], ("val", "test", "restval"), strict=True))
    listed = [
        {
            "filename": name,
            "split": used.get(name, "train"),
            "sentences": [{"sentid": c, "raw": f"{name} {c} "} for c in range(5 + (name in used))],
        }
        for files in names.values()
        for name in files
    ]
    raw_data.put(tmp_path / "karpathy" / "dataset_coco.json", json.dumps({"images": listed}))
    downloads["caption_datasets.zip"] = str(tmp_path / "karpathy")
    found = splits("coco_captions", "", tmp_path / "data")
    assert {name: len(turns) for name, turns in found.items()} == {
        "train": 10, "valid": 5, "test": 5, "restval": 5,
    }  # fmt: skip
    train = found["train"]
    assert [row["text"][-1] for row in rows(train)] == list("01234") * 2
    assert train.image_keys.tolist() == [0] * 5 + [1] * 5
    for i in (0, 7):
        name = train.row(i)["image_id"]
        assert train.row(i)["text"].startswith(name)
        assert train.image(i) == raw_data.jpeg(names["train"].index(name), 32, "RGB")
        assert np.asarray(Image.open(io.BytesIO(train.image(i)))).shape == (32, 32, 3)


def test_without_a_network_it_says_what_is_wanted(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def refuse(self, urls):
        raise OSError("no route to host")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", refuse)
    with pytest.raises(UserError, match=r"TFDS cannot make 'goemotions' in .*no route to host"):
        splits("go_emotions", "", tmp_path)
