"""OpenViDial, raw and processed, from made-up files in its layouts; vectors in batches."""

import itertools
import json

import batches_of
import numpy as np
import pytest
import raw_data

from igerg_jax import batch as batch_lib
from igerg_jax import checks
from igerg_jax.batch import UNKNOWN
from igerg_jax.data import builders, folders, image_files, pipeline, prepare
from igerg_jax.data.builders import source, tfds_builder
from igerg_jax.errors import UserError

# Two dialogues that use lines out of order; line 2 is blank, line 5 belongs to none.
LINES = ["one", "two ½", "", "four", "five", "nobody's", "seven"]
DIALOGUES = [[3, 2, 0], [6, 4, 1]]
ORDER = [3, 2, 0, 6, 4, 1]


def options(folder, labels="", least=0.0):
    return source.Options(str(folder), str(folder), str(labels), least)


@pytest.fixture
def raw(tmp_path):
    for split in ("train", "valid", "test"):
        raw_data.put(tmp_path / f"{split}.origin.txt", "\n".join(LINES) + "\n")
        text = "\n".join(map(json.dumps, DIALOGUES)) + "\n"
        raw_data.put(tmp_path / f"{split}.dialogue.jsonl", text)
        for i in range(len(LINES)):
            raw_data.put(tmp_path / f"{split}_images" / f"{i}.jpg", raw_data.jpeg(i, 40, "RGB"))
    return tmp_path


def processed(folder, kind="features", turns=7):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((turns, 1000)).astype(np.float32)
    objects = rng.standard_normal((turns, 20, 2048)).astype(np.float32)
    mask = rng.random((turns, 20)) < 0.3
    mask[2], mask[0] = False, True
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        raw_data.put(folder / f"{split}.src.txt", "\n".join(LINES) + "\n")
        np.save(folder / f"{split}.sent_num.npy", np.array([3, 4]))
        np.save(folder / f"{split}.offsets.npy", np.array([0, 3]))
        vectors.tofile(folder / f"{split}.features.mmap")
        objects.tofile(folder / f"{split}.objects.mmap")
        mask.tofile(folder / f"{split}.objects_mask.mmap")
    return vectors, objects, mask


def test_ids_join_words_and_images(raw):
    turns = builders.splits("openvidial/v1", options(raw))["train"]
    rows = [turns.row(i) for i in range(len(turns))]
    assert [row["turn_id"] for row in rows] == ORDER
    assert [row["text"] for row in rows] == [LINES[i] for i in ORDER]
    assert [(row["episode"], row["turn"]) for row in rows] == list(
        itertools.product((0, 1), (0, 1, 2))
    )
    assert [turns.image(i) for i in range(6)] == [raw_data.jpeg(i, 40, "RGB") for i in ORDER]
    assert {row["emotion"] for row in rows} == {UNKNOWN}


def config_for(tiny_config, folder, dataset, **changes):
    tiny_config.data.update(
        dataset=dataset, data_dir=str(folder / "out"), manual_dir=str(folder), **changes
    )
    tiny_config.data.tokenizer.update(model_type="bpe", vocab_size=285)
    tiny_config.train.batch_size = tiny_config.evaluate.batch_size = 4
    return tiny_config


def test_a_missing_or_broken_image_is_counted_and_shifts_no_other(raw, tiny_config, capsys):
    (raw / "train_images" / "3.jpg").unlink()
    (raw / "train_images" / "6.jpg").write_bytes(raw_data.jpeg(6, 40, "RGB")[:200])
    prepared = prepare.prepare(config_for(tiny_config, raw, "openvidial/v1"))
    counts = prepared.summary["splits"]["train"]
    assert (counts["images"], counts["missing_images"], counts["broken_images"]) == (4, 1, 1)
    said = capsys.readouterr().err
    counted = "openvidial/v1, train: images: 4 read, 1 missing, 1 broken, 1 passed over"
    assert f"{counted} (images that no turn names 1)" in said  # of the line in no dialogue
    turns = prepared.split("train").turns
    assert [turns.text(i) for i in range(6)] == [LINES[i] for i in ORDER]
    for number, turn_id in enumerate(ORDER):
        if turn_id in (3, 6):
            assert turns.image[number] == source.NO_IMAGE
        else:
            found = turns.read_images(turns.image[number : number + 1])
            assert found == [raw_data.jpeg(turn_id, 40, "RGB")]


def test_pseudo_labels_are_read_and_doubtful_ones_are_left_out(raw, tiny_config):
    p = np.full((3, 7), 0.05, np.float32)
    p[0, 2], p[1, 4], p[2, 1] = 0.7, 0.69, 0.9
    names = np.array([f"train_images/{i}.jpg" for i in (3, 2, 5)])
    (raw / "labels").mkdir()
    np.savez(raw / "labels" / "labels-00000.npz", image=names, probability=p)
    found = builders.splits("openvidial/v1", options(raw, raw / "labels", 0.695))
    assert found["train"].emotions.tolist() == [2, *[UNKNOWN] * 5]
    assert set(found["valid"].emotions) == {UNKNOWN}
    one, other = (
        folders.of_dataset(config.data, "openvidial/v1")
        for config in (
            config_for(tiny_config, raw, "openvidial/v1").copy_and_resolve_references(),
            config_for(tiny_config, raw, "openvidial/v1", labels={"path": str(raw / "labels")}),
        )
    )
    assert one != other  # what was prepared without labels is not taken for it
    with pytest.raises(UserError, match=r"has no labels-\*\.npz"):
        builders.splits("openvidial/v1", options(raw, raw / "nowhere"))
    np.savez(raw / "labels" / "labels-00001.npz", image=names, probability=p[:, :3])
    with pytest.raises(UserError, match=r"labels-00001\.npz' does not hold pseudo-labels"):
        builders.pseudo_labels.read.cache_clear()
        builders.splits("openvidial/v1", options(raw, raw / "labels"))


def put_labels(folder, *files):
    """Labels of joy, {image: confidence} in each file."""
    folder.mkdir()
    for number, labels in enumerate(files):
        p_Nx7 = np.zeros((len(labels), 7), np.float32)
        p_Nx7[:, 3] = list(labels.values())
        images = np.array(list(labels))
        np.savez(folder / f"labels-{number:05d}.npz", image=images, probability=p_Nx7)
    return folder


def test_pseudo_labels_that_label_nothing_are_counted(raw):
    train = {f"train_images/{i}.jpg": 0.5 + i / 10 for i in (0, 2, 3, 5)}
    again = {"train_images/3.jpg": 0.4, "valid_images/1.jpg": 0.9, "elsewhere/1.jpg": 0.9}
    found = builders.splits("openvidial/v1", options(raw, put_labels(raw / "l", train, again), 0.6))
    assert [emotion == 3 for emotion in found["train"].emotions] == [i == 2 for i in ORDER]
    own = builders.splits("openvidial/v1", options(raw))["train"].remarks
    below, unused, repeated = (
        "turns have a pseudo-label below the minimum confidence; they stay unlabelled",
        "pseudo-labels are of images that no turn has",
        "pseudo-labels are replaced by a later one of the same image",
    )
    assert found["train"].remarks == {**own, below: 2, unused: 2, repeated: 1}
    assert found["valid"].remarks == own
    assert found["train"].passed_over == {image_files.UNNAMED: 1}  # of the line in no dialogue


def test_pseudo_labels_of_another_folder_are_refused(raw, tiny_config):
    """Such as those of train_images/ in place of the folder that it is in."""
    raw_data.meld(raw, dialogues=1)
    wrong = options(raw, put_labels(raw / "wrong", {f"{i}.jpg": 0.9 for i in range(7)}))
    right = options(raw, put_labels(raw / "right", {"test_images/1.jpg": 0.9}))
    config = config_for(tiny_config, raw, "openvidial/v1", labels={"path": wrong.labels_path})
    with pytest.raises(UserError, match=r"labels no image of openvidial/v1: it has 7 names such"):
        prepare.prepare(config)
    assert not list((raw / "out").rglob("*.npy"))
    names = ("meld", "openvidial/v1")  # of several, one is enough
    builders.check_labels(names, right)
    with pytest.raises(UserError, match=r"'0\.jpg', the images have names such as 'train_images/3"):
        builders.check_labels(names, wrong)
    config.data.labels.path = right.labels_path
    turns = prepare.prepare(config).split("test").turns
    assert turns.emotion.tolist() == [3 if i == 1 else UNKNOWN for i in ORDER]


def test_pseudo_labels_of_faces_that_are_paired(tmp_path):
    """They are those of the faces' own dataset, whether or not a turn gets the face."""
    raw_data.meld(tmp_path, dialogues=2)
    (tmp_path / "MELD.Raw" / "dev_sent_emo.csv").unlink()
    for number, name in enumerate((*raw_data.FER_FOLDERS, "contempt")):
        raw_data.put(tmp_path / "mine" / "train" / name / "1.jpg", raw_data.jpeg(number))
    labels = put_labels(tmp_path / "l", {"train/contempt/1.jpg": 0.3, "train/2.jpg": 0.9})
    given, dataset = options(tmp_path, labels, 0.6), "paired/meld+emotion_folder/mine"
    builders.check_labels([dataset], given)
    (train,) = builders.splits(dataset, given).values()
    assert len(train.remarks) == 2 and set(train.remarks.values()) == {1}
    assert all(what.endswith("(of the faces)") for what in train.remarks)


def test_raw_files_that_contradict_each_other(raw):
    raw_data.put(raw / "train.dialogue.jsonl", "[0, 1]\n[7]\n")
    with pytest.raises(UserError, match=r"dialogue\.jsonl', line 2: turn 7"):
        builders.splits("openvidial/v1", options(raw))
    raw_data.put(raw / "train.dialogue.jsonl", "{}x\n")
    with pytest.raises(UserError, match="line 1: not a list"):
        builders.splits("openvidial/v1", options(raw))
    (raw / "train.dialogue.jsonl").unlink()
    with pytest.raises(UserError, match=r"dialogue\.jsonl' is missing"):
        builders.splits("openvidial/v1", options(raw))
    with pytest.raises(UserError, match=r"'openvidial/v2' has no files.*origin\.txt"):
        builders.splits("openvidial/v2", options(raw / "train_images"))


def test_processed_vectors_go_with_their_words(tmp_path):
    vectors, objects, mask = processed(tmp_path)
    features = builders.splits("openvidial/v1_features", options(tmp_path))["train"]
    means = builders.splits("openvidial/v1_objects", options(tmp_path))["train"]
    assert len(features) == len(means) == 7
    for i in range(7):
        assert features.row(i)["text"] == LINES[i]
        np.testing.assert_array_equal(features.features(i), vectors[i])
        if i != 2:
            np.testing.assert_allclose(
                means.features(i), objects[i][mask[i]].mean(0), rtol=1e-5, atol=1e-6
            )
    assert [features.row(i)["turn"] for i in range(7)] == [0, 1, 2, 0, 1, 2, 3]
    assert (means.image_keys == source.NO_IMAGE).nonzero()[0].tolist() == [2]


def test_batches_of_vectors(tmp_path, tiny_config):
    vectors, *_ = processed(tmp_path / "raw")
    config = config_for(tiny_config, tmp_path, "openvidial/v1_features", feature_dim=1000)
    config.data.manual_dir = str(tmp_path / "raw")
    prepared = prepare.prepare(config)
    spec = batch_lib.BatchSpec.of(config.data, 4)
    for number, (batch, real) in enumerate(
        batches_of.first_windows(prepared, "valid", config, np.arange(4))
    ):
        batch_lib.check(batch, spec)
        for row in range(real):
            shown = batch["image_mask"][row]
            last = int(prepared.split("valid").response_turn[4 * number + row])
            first = last - (shown.sum() - 1)
            np.testing.assert_array_equal(batch["features"][row][shown], vectors[first : last + 1])
            assert not batch["features"][row][~shown].any()
    batch = next(pipeline.train_batches(prepared, config, 0, np.arange(4)))
    batch_lib.check(batch, spec)
    config.data.feature_dim = 0
    for check in (checks.check_data, checks.check_evaluation_data):
        with pytest.raises(UserError, match=r"set config\.data\.feature_dim=1000"):
            check(prepared, config)


def test_processed_files_that_contradict_each_other(tmp_path):
    processed(tmp_path)
    path = tmp_path / "train.features.mmap"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"the 7 lines of src\.txt need 28000"):
        builders.splits("openvidial/v1_features", options(tmp_path))
    for offsets in ([0, 5], [-1, 3], [0]):
        np.save(tmp_path / "train.offsets.npy", np.array(offsets))
        with pytest.raises(UserError, match="do not fit the 7 lines"):
            builders.splits("openvidial/v1_objects", options(tmp_path))


@pytest.mark.parametrize("dataset", ["openvidial/v1", "openvidial/v2_features"])
def test_tfds_gives_the_same_turns(raw, dataset):
    vectors, *_ = processed(raw)
    builder = tfds_builder.make(dataset, options(raw))
    builder.download_and_prepare()
    found = builder.as_data_source("train")
    turns = builders.splits(dataset, options(raw))["train"]
    assert len(found) == len(turns)
    for i in range(len(turns)):
        example = found[i]
        assert example["text"].decode() == turns.row(i)["text"]
        if "features" in example:
            np.testing.assert_array_equal(example["features"], vectors[i])
        else:
            assert len(example["images"]) == 1 and example["turn_id"] == ORDER[i]
