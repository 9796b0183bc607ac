"""Pseudo-labels: a run's model on files, through the builder that reads them."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import random_run
import small
from PIL import Image

from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS, UNKNOWN
from igerg_jax.cli import modes
from igerg_jax.data import builders, image_domain, parts, pipeline
from igerg_jax.data.images import find_files
from igerg_jax.evaluation import trained_run
from igerg_jax.evaluation.inference import Inference
from igerg_jax.tools import calibrate_images, label_emotions
from igerg_jax.tools.weights import sharing

IMAGES, BATCH, PART = 21, 8, 10
BROKEN = ("train_images/3.jpg", "train_images/5.jpg")


def make_config(data_dir):
    config = small.with_pixels(small.make_config())
    config.data.update(dataset="chitchat_peeps/tiny", data_dir=str(data_dir))
    config.data.update(context_tokens=24, response_tokens=12)
    config.data.tokenizer.vocab_size = 512
    config.model.text.max_positions = 24
    config.generate.max_tokens = 20
    config.evaluate.update(batch_size=8, examples=16)
    return config


class World:
    """A checkpoint, and its own dataset's faces as an OpenViDial folder of frames."""

    def __init__(self, config, folder: pathlib.Path):
        self.config, self.folder = config, folder
        self.prepared = random_run.save(config, folder)
        self.raw = folder / "openvidial"
        split = self.prepared.split("train")
        for name, count in (("train", IMAGES - 5), ("valid", 3), ("test", 2)):
            images = self.raw / f"{name}_images"
            images.mkdir(parents=True)
            for i in range(count):
                (images / f"{i}.jpg").write_bytes(split.turns.read_images([i])[0])
            lines = "".join(f"turn {i}\n" for i in range(count))
            (self.raw / f"{name}.origin.txt").write_text(lines)
            episodes = json.dumps(list(range(count))) + "\n"
            (self.raw / f"{name}.dialogue.jsonl").write_text(episodes)
        (self.raw / BROKEN[0]).write_text("no image")
        whole = (self.raw / BROKEN[1]).read_bytes()
        (self.raw / BROKEN[1]).write_bytes(whole[: len(whole) // 2])
        self.labels = folder / "labels"
        self.summary = self.label(self.labels)

    def label(self, out, images=None, batch_size=BATCH) -> dict:
        images = str(images or self.raw)
        return label_emotions.label(str(self.folder), images, str(out), batch_size, PART)


@pytest.fixture(scope="module")
def world(data_dir, tmp_path_factory) -> World:
    return World(make_config(data_dir), tmp_path_factory.mktemp("world"))


def read(folder) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.glob("labels-*.npz")):
        with np.load(path) as part:
            found |= dict(zip(part["image"].tolist(), part["probability"], strict=True))
    return found


def respond_to(world, image, capsys) -> str:
    """What `igerg generate` says besides its answer to words that are shown with an image."""
    modes.generate_once(world.config, world.folder, [("hello", str(image))], None, None)
    return capsys.readouterr().err


def test_images_unlike_those_of_training_are_said(world, tmp_path, capsys):
    """Once the checkpoint's own images are calibrated with; the export takes that along."""
    assert world.summary["strange"] == 0
    noise = np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), np.uint8)
    (tmp_path / "noise").mkdir()
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{number}.png")
    command = f"igerg_jax.tools.calibrate_images --checkpoint={world.folder} "
    world.label(tmp_path / "before")
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "unlike" in line]
    assert "is not known" in said and command in said
    said = respond_to(world, tmp_path / "noise" / "3.png", capsys)
    assert "is not known" in said and command in said
    said = calibrate_images.calibrate(str(world.folder), 0.01)
    assert "training images, threshold" in said
    try:
        exported = tmp_path / "exported"
        sharing.export(str(world.folder), str(exported))
        capsys.readouterr()
        said = respond_to(world, tmp_path / "noise" / "3.png", capsys)
        assert "warning: 1 of 1 images is unlike" in said and "noise/3.png" in said
        for path in (world.folder, exported):
            images = str(tmp_path / "noise")
            out = str(tmp_path / f"labels-{path.name}")
            counts = label_emotions.label(str(path), images, out, BATCH, PART)
            assert counts["strange"] == counts["labelled"] == 20
            assert "warning: 20 of 20 images are unlike" in capsys.readouterr().err
        counts = world.label(tmp_path / "own")
        assert counts["strange"] <= 2 and "unlike" not in capsys.readouterr().err
    finally:
        (world.folder / image_domain.FILE).unlink()


def test_every_image_is_labelled_and_broken_ones_are_counted(world):
    labels = read(world.labels)
    everything = find_files(str(world.raw)).names
    assert len(everything) == IMAGES
    assert labels.keys() == set(everything) - set(BROKEN)
    for p_C in labels.values():
        assert p_C.shape == (NUM_EMOTIONS,) and p_C.dtype == np.float32
        np.testing.assert_allclose(p_C.sum(), 1, rtol=1e-5)
    assert len({p_C.tobytes() for p_C in labels.values()}) > 10
    summary = world.summary
    assert summary == json.loads((world.labels / "summary.json").read_text())
    assert (summary["labelled"], summary["broken"]) == (IMAGES - 2, 2)
    assert sorted(summary["first_broken"]) == sorted(BROKEN)
    best = [p_C.argmax() for p_C in labels.values()]
    assert summary["images_by_emotion"] == {e: best.count(i) for i, e in enumerate(EMOTIONS)}


def test_they_are_the_evaluators_probabilities(world):
    """The evaluator's probabilities of each of these images in a window that shows nothing else."""
    run = trained_run.open_run(world.folder, batch_size=BATCH)
    chosen = world.prepared.split("train")
    batch, _ = next(
        pipeline.window_batches(
            world.prepared, "train", np.arange(BATCH), world.config, np.arange(BATCH)
        )
    )
    first_N = np.arange(batch["image_mask"].shape[1]) == 0
    batch = batch | {"image_mask": batch["image_mask"] & first_N}
    inference = Inference(run.setup, world.prepared)
    views = jax.device_get(inference.probabilities(run.params, batch, batch["response"]))
    labels, compared = read(world.labels), 0
    for row in range(BATCH):
        first = chosen.turn_range(row)[0]
        record = int(chosen.turns.image[first])
        name = f"train_images/{record}.jpg"
        if name in labels and batch["image_mask"][row, 0]:
            np.testing.assert_allclose(labels[name], views["images"][row, 0], atol=1e-5)
            compared += 1
    assert compared >= 4


def test_killed_half_way_it_goes_on_and_ends_the_same(world, tmp_path, monkeypatch):
    save, traces = parts.save_npz, []

    def die_second(path, arrays):
        if path.name == "labels-00001.npz":
            raise KeyboardInterrupt
        save(path, arrays)

    monkeypatch.setattr(parts, "save_npz", die_second)
    with pytest.raises(KeyboardInterrupt):
        world.label(tmp_path / "cut")
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("labels-*.npz")}
    assert [path.name for path in done] == ["labels-00000.npz"]

    predicted, written = label_emotions.predict, []

    def look(run, folder, names, *domain):
        traces.append(len(names))
        return predicted(run, folder, names, *domain)

    def note(path, arrays):
        written.append(path.name)
        save(path, arrays)

    (tmp_path / "cut" / "labels-00002.npz").write_bytes(b"")  # as a power failure leaves it
    monkeypatch.setattr(label_emotions, "predict", look)
    monkeypatch.setattr(parts, "save_npz", note)
    assert world.label(tmp_path / "cut") == world.summary
    assert traces == [IMAGES - PART], "the first part's images are not looked at again"
    assert written == ["labels-00001.npz", "labels-00002.npz"]
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    again, whole = read(tmp_path / "cut"), read(world.labels)
    assert again.keys() == whole.keys()
    for name, p_C in again.items():  # batches are other ones, so sums may differ in the last bit
        np.testing.assert_allclose(p_C, whole[name], atol=1e-6, err_msg=name)


def test_one_program_is_compiled_whatever_the_last_batch(world, tmp_path, monkeypatch):
    traced, probabilities = [], label_emotions.image_probabilities

    def count(model, params, batch):
        traced.append(batch["images"].shape)
        return probabilities(model, params, batch)

    monkeypatch.setattr(label_emotions, "image_probabilities", count)
    assert IMAGES % BATCH
    world.label(tmp_path / "labels")
    assert traced == [(BATCH, 1, 16, 16, 3)]


@pytest.mark.parametrize("quantile", [0.0, 0.5, 1.1])
def test_a_threshold_leaves_the_rest_unknown(world, quantile):
    """Through the builder: the turns of an OpenViDial folder get the labels above it."""
    labels = read(world.labels)
    sure = {name: float(p_C.max()) for name, p_C in labels.items()}
    threshold = np.quantile(list(sure.values()), min(quantile, 1)) + max(quantile - 1, 0)
    options = builders.source.Options(
        str(world.folder), str(world.raw), str(world.labels), float(threshold)
    )
    (turns, count) = (builders.splits("openvidial/v1", options)["train"], IMAGES - 5)
    known = 0
    for i in range(count):
        name = f"train_images/{i}.jpg"
        expected = UNKNOWN
        if name in labels and sure[name] >= threshold:
            expected = int(labels[name].argmax())
            known += 1
        assert turns.row(i)["emotion"] == expected
    assert {0.0: known == count - 2, 0.5: 0 < known < count - 2, 1.1: known == 0}[quantile]


def test_a_pattern_names_files_below_what_is_fixed_of_it(world):
    files = find_files(str(world.raw / "*_images" / "1*.jpg"))
    assert files.folder == world.raw
    assert "train_images/10.jpg" in files.names and "test_images/1.jpg" in files.names
    assert "train_images/2.jpg" not in files.names
    assert find_files(str(world.raw / "**" / "*.jpg")).names == (find_files(str(world.raw)).names)


def test_what_does_not_fit_is_one_message(world, tmp_path, capsys):
    def refused(*arguments) -> str:
        assert label_emotions.main(["label_emotions", *arguments]) == 2
        return capsys.readouterr().err

    given = [f"--checkpoint={world.folder}", f"--images={world.raw}", f"--out={world.labels}"]
    assert "--out is missing" in refused(*given[:2])
    assert "not a flag" in refused(*given, "more")
    assert "no checkpoint" in refused("--checkpoint=nowhere", *given[1:])
    assert "'nowhere'" in refused(given[0], "--images=nowhere", given[2])
    assert "batch_size=3" in refused(*given, "--batch_size=3")
    fewer = [given[0], f"--images={world.raw / 'train_images'}", given[2], "--batch_size=8"]
    message = refused(*fewer)
    assert "holds other labels" in message and "files (there 21, here 16)" in message
    for content in ("[1]", "", "7"):
        (tmp_path / "damaged").mkdir(exist_ok=True)
        (tmp_path / "damaged" / label_emotions.PLAN).write_text(content)
        assert "cannot write labels" in refused(*given[:2], f"--out={tmp_path / 'damaged'}")
    shutil.copytree(world.raw / "test_images", tmp_path / "images")
    out = f"--out={tmp_path / 'out'}"
    assert label_emotions.main(["", given[0], f"--images={tmp_path / 'images'}", out]) == 0
    assert json.loads(capsys.readouterr().out)["labelled"] == 2
