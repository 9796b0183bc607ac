"""Raw files with any bytes changed: each dataset reads them or says what is wrong with them."""

import contextlib
import json
import pathlib
import pickle
import shutil
import zipfile

import damage
import hypothesis
import numpy as np
import properties
import pytest
import raw_data
from hypothesis import strategies as st

from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS
from igerg_jax.data import builders, image_gate, store
from igerg_jax.data.builders import daily_dialog, pseudo_labels, source
from igerg_jax.errors import UserError


def put_meld(folder: pathlib.Path) -> None:
    raw_data.meld(folder, dialogues=2)


def put_fer_table(folder: pathlib.Path) -> None:
    lines = ["emotion,pixels,Usage"]
    for label, usage in ((0, "Training"), (3, "PublicTest"), (6, "PrivateTest")):
        lines.append(f"{label},{' '.join(['7'] * 2304)},{usage}")
    raw_data.put(folder / "fer2013.csv", "\n".join(lines))


def put_fer_zip(folder: pathlib.Path) -> None:
    raw_data.fer_zip(folder, raw_data.fer_names(1)[:6])


def put_daily(folder: pathlib.Path) -> None:
    for split in ("train", "validation", "test"):
        texts = "Hi ! __eou__ Oh , no ’ s __eou__ Bah __eou__\nOne __eou__ Two __eou__\n"
        with zipfile.ZipFile(folder / f"{split}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{split}/dialogues_{split}.txt", texts)
            archive.writestr(f"{split}/dialogues_emotion_{split}.txt", "4 6 2\n0 1\n")


def put_empathetic(folder: pathlib.Path) -> None:
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
    lines = [f"hit:0_conv:1,{i},terrified,A dog,{i},It barked,5|5|5_2|2|5," for i in (1, 2)]
    for split in ("train", "valid", "test"):
        raw_data.put(folder / f"{split}.csv", header + "\n".join(lines))


def put_image_chat(folder: pathlib.Path) -> None:
    chats = [{"image_hash": "aa", "dialog": [["Sweet", "Nice!"], ["Grim", None]]}]
    raw_data.put(folder / "train.json", json.dumps(chats))
    raw_data.put(folder / "yfcc_images" / "aa.jpg", raw_data.jpeg(1))


def put_openvidial(folder: pathlib.Path) -> None:
    raw_data.put(folder / "train.origin.txt", "zero\none\n")
    raw_data.put(folder / "train.dialogue.jsonl", "[0, 1]\n")
    raw_data.put(folder / "train_images" / "0.jpg", raw_data.jpeg(0))


def put_folder(folder: pathlib.Path) -> None:
    raw_data.put(folder / "EmoLabel" / "list_patition_label.txt", "train_1.jpg 4\ntest_2.jpg 1\n")
    for name in ("train_1", "test_2"):
        raw_data.put(folder / "Image" / "original" / f"{name}.jpg", raw_data.jpeg(0))


WRITERS = {
    "meld": put_meld,
    "fer2013": put_fer_table,
    "fer2013 ": put_fer_zip,
    "daily_dialog": put_daily,
    "empathetic_dialogues": put_empathetic,
    "image_chat": put_image_chat,
    "openvidial/v1": put_openvidial,
    "emotion_folder": put_folder,
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """{dataset: folder of its files}."""
    folders = {name: tmp_path_factory.mktemp("raw") for name in WRITERS}
    for name, folder in folders.items():
        WRITERS[name](folder)
    return folders


def read_all(dataset: str, folder: pathlib.Path) -> None:
    """What preparation does with each turn."""
    options = source.Options("unused", str(folder), "", 0.0)
    for turns in builders.splits(dataset.strip(), options).values():
        rows = [turns.row(i) for i in range(len(turns))]
        store.text_columns(rows)
        keys = turns.image_keys
        assert len(keys) == len(turns.emotions) == len(turns)
        for i, row in enumerate(rows):
            assert -1 <= row["emotion"] < NUM_EMOTIONS
            row["text"].encode()  # it has no half of a surrogate pair
            if keys[i] != source.NO_IMAGE and (data := turns.image(i)):
                with contextlib.suppress(image_gate.BrokenImage):
                    image_gate.as_jpeg(data)


@pytest.mark.parametrize("dataset", WRITERS)
@properties.examples(10)
@hypothesis.given(
    which=st.integers(0, 100),
    changes=damage.CHANGES,
    length=st.sampled_from([0, 0, 0, 1, 30, 10**6]),
)
def test_a_mutated_file_is_read_or_refused(raw, tmp_path_factory, dataset, which, changes, length):
    folder = tmp_path_factory.mktemp("mutated", numbered=True)
    shutil.copytree(raw[dataset], folder, dirs_exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[which % len(files)]
    path.write_bytes(damage.mutated(path.read_bytes(), changes, length))
    before = set(folder.rglob("*"))
    try:
        read_all(dataset, folder)
    except UserError as error:
        assert str(error)
    assert set(folder.rglob("*")) == before
    shutil.rmtree(folder)


def test_unchanged_files_are_read(raw):
    for dataset, folder in raw.items():
        read_all(dataset, folder)


def test_an_archive_writes_nothing_wherever_its_names_point(tmp_path):
    names = ["../../evil/angry/Training_1.jpg", "/angry/Training_2.jpg", "train/angry/../sad/3.jpg"]
    raw_data.fer_zip(tmp_path / "here", names)
    link = zipfile.ZipInfo("train/happy/link.jpg")
    link.external_attr = 0o120777 << 16  # a symbolic link
    with zipfile.ZipFile(tmp_path / "here" / "fer2013.zip", "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with contextlib.suppress(UserError):
        read_all("fer2013", tmp_path / "here")
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "fer2013.zip"]


def test_an_archive_that_swells_is_refused(tmp_path, monkeypatch):
    put_daily(tmp_path)
    monkeypatch.setattr(daily_dialog, "_MAX_BYTES", 50)
    with pytest.raises(UserError, match=r"train\.zip.* is larger than any file of DailyDialog"):
        read_all("daily_dialog", tmp_path)
    raw_data.fer_zip(tmp_path, ["train/angry/Training_1.jpg"])
    monkeypatch.setattr(image_gate, "MAX_FILE_BYTES", 50)
    options = source.Options("unused", str(tmp_path), "", 0.0)
    assert builders.splits("fer2013", options)["train"].image(0) == b""


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_labels_that_are_a_pickle_run_nothing(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "labels-00000.npz"
    probability = np.full((1, NUM_EMOTIONS), 1 / NUM_EMOTIONS, np.float32)
    np.savez(path, image=np.array([Bomb(marker)], object), probability=probability)
    with pytest.raises(UserError, match="does not hold pseudo-labels"):
        pseudo_labels.read(tmp_path)
    path.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(UserError, match="does not hold pseudo-labels"):
        pseudo_labels.read(tmp_path)
    assert not marker.exists()
    with np.load(path, allow_pickle=True):  # it would have run
        pass
    assert marker.exists()


@properties.examples(40)
@hypothesis.given(changes=damage.CHANGES, length=st.sampled_from([0, 0, 1, 30, 10**6]))
def test_mutated_labels_are_read_or_refused(tmp_path_factory, changes, length):
    folder = tmp_path_factory.mktemp("labels", numbered=True)
    path = folder / "labels-00000.npz"
    probability = np.full((2, NUM_EMOTIONS), 1 / NUM_EMOTIONS, np.float32)
    np.savez(path, image=np.array(["a.jpg", "b.jpg"]), probability=probability)
    path.write_bytes(damage.mutated(path.read_bytes(), changes, length))
    try:
        labels = pseudo_labels.read(folder)
    except UserError:
        return
    assert all(0 <= emotion < len(EMOTIONS) for emotion, _ in labels.of.values())
