"""What TensorBoard and Weights & Biases are given."""

import importlib.util
import json
import re
import sys
import threading
import time
import types

import clu
import made_up_run
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from igerg_jax.training import trackers

EVALUATION = {"valid": {"bleu_1": 7.0}, "test": {"bleu_1": 6.5, "emotion_following": 0.5}}
CONFIG = {"seed": 3, "optim": {"name": "adamw", "peak_learning_rate": 2e-3}, "rules": [("a", None)]}


class Noted:
    """A writer that notes what it is told."""

    def __init__(self):
        self.scalars, self.texts, self.images, self.hparams, self.closed = {}, {}, {}, {}, False

    def write_scalars(self, step, scalars):
        self.scalars |= {(step, name): value for name, value in scalars.items()}

    def write_texts(self, step, texts):
        self.texts |= texts

    def write_images(self, step, images):
        self.images |= images

    def write_hparams(self, hparams):
        self.hparams |= hparams

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("loss/total", "train/loss/total"),
        ("metric/text_emotion/accuracy", "train/metric/text_emotion/accuracy"),
        ("learning_rate", "train/learning_rate"),
        ("valid/bleu_1", "valid/bleu_1"),
        ("step_seconds", "utilisation/step_seconds"),
    ],
)
def test_names_are_grouped(name, tag):
    assert trackers.tag(name) == tag


def test_no_name_is_without_a_group_and_bookkeeping_comes_after_training():
    writer = Noted()
    records = made_up_run.make_records(100, 10)
    for record in records:
        trackers.Tracker([writer]).write_scalars(record.pop("step"), record)
    groups = sorted({name.partition("/")[0] for _, name in writer.scalars})
    assert groups == ["train", "utilisation", "valid"]
    assert all("/" in name for _, name in writer.scalars)


def test_results_are_written_with_samples_and_hyperparameters():
    writer, rows = Noted(), made_up_run.make_samples(20)
    rows[0]["generated"] = "a | b\nc"
    tracker = trackers.Tracker([writer])
    tracker.write_results(600, EVALUATION, rows, CONFIG)
    assert writer.scalars[600, "test/emotion_following"] == 0.5
    assert writer.scalars[600, "valid/bleu_1"] == 7.0
    assert writer.hparams == {"seed": 3, "optim.name": "adamw", "optim.peak_learning_rate": 2e-3}
    lines = writer.texts["samples/conversations"].splitlines()
    assert len(lines) == 2 + trackers.SAMPLES and "a \\| b c" in lines[2]
    shown = sum(row["response_image"] is not None for row in rows[: trackers.SAMPLES])
    faces = writer.images["samples/faces"]
    assert faces.shape == (shown, 96, 96, 3) and faces.dtype == np.uint8 and faces.std() > 10
    tracker.close()
    assert writer.closed


def test_a_run_without_samples_has_figures_alone():
    writer = Noted()
    trackers.Tracker([writer]).write_results(5, EVALUATION, [], CONFIG)
    assert writer.scalars and not writer.texts and not writer.images


def test_tensorboard_reads_it_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = trackers.open_tracker(epath.Path(tmp_path), "")
    tracker.write_scalars(10, {"loss/total": 3.5, "step_seconds": 0.25})
    config = ConfigDict(CONFIG).to_dict()
    tracker.write_results(600, EVALUATION, made_up_run.make_samples(4), config)
    tracker.close()
    events = EventAccumulator(str(tmp_path / trackers.FOLDER), {"images": 0, "tensors": 0})
    events.Reload()
    tensors = set(events.Tags()["tensors"])
    assert {"train/loss/total", "test/bleu_1", "samples/faces"} <= tensors
    assert any("hparams" in tag for tag in tensors)


def test_weights_and_biases_has_a_row_for_each_line_and_no_other():
    logged = {}
    writer = object.__new__(trackers.WandbWriter)
    writer._wandb = types.SimpleNamespace(Table=lambda columns, data: data)
    writer._run = types.SimpleNamespace(log=lambda values, step: logged.update(values))
    writer.write_texts(1, {"texts": "a\u2028b\x85c\nd\n"})
    assert logged == {"texts": [["a\u2028b\x85c"], ["d"]]}


@pytest.mark.skipif(
    not importlib.util.find_spec("wandb"), reason="needs wandb: requirements-wandb.txt"
)
def test_weights_and_biases_is_given_the_same_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    writer = trackers.WandbWriter(epath.Path(tmp_path), "of-tests")
    tracker = trackers.Tracker([writer])
    tracker.write_scalars(10, {"loss/total": 3.5})
    tracker.write_results(600, EVALUATION, made_up_run.make_samples(4), CONFIG)
    tracker.close()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert (tmp_path / trackers.WANDB_ID).read_text() in run.name
    (log,) = run.glob("run-*.wandb")
    # A log of records, in which a value follows its name; another process writes it to the end.
    for wanted in (rb"train/loss/total.{1,4}3\.5", rb"test/bleu_1.{1,4}6\.5"):
        deadline = time.monotonic() + 60
        while not re.search(wanted, log.read_bytes(), re.DOTALL):
            assert time.monotonic() < deadline, wanted
            time.sleep(0.1)
    media = {path.suffix for path in (run / "files" / "media").rglob("*") if path.is_file()}
    assert media == {".png", ".json"}, json.dumps(sorted(media))


@pytest.mark.parametrize("package", ["clu", "tensorboard", "tensorflow"])
def test_what_writes_to_tensorboard_is_found_missing_before_training(
    monkeypatch, tmp_path, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as raised:
        trackers.open_tracker(epath.Path(tmp_path), "")
    assert raised.value.name == package


def test_a_run_waits_for_tensorboard_only_at_its_end(monkeypatch, tmp_path):
    opened, written = threading.Event(), []

    class Slow(Noted):
        def __init__(self, folder):
            super().__init__()
            assert opened.wait(60)

        def write_scalars(self, step, scalars):
            written.append(step)

    monkeypatch.setattr("clu.metric_writers.SummaryWriter", Slow)
    tracker = trackers.open_tracker(epath.Path(tmp_path), "")
    for step in range(3):
        tracker.write_scalars(step, {"loss/total": 1.0})
    assert not written
    opened.set()
    tracker.close()
    assert written == [0, 1, 2]


def test_a_write_that_fails_is_raised(monkeypatch, tmp_path):
    class Full(Noted):
        def __init__(self, folder):
            super().__init__()

        def write_scalars(self, step, scalars):
            raise OSError("no space left")

    monkeypatch.setattr("clu.metric_writers.SummaryWriter", Full)
    tracker = trackers.open_tracker(epath.Path(tmp_path), "")
    tracker.write_scalars(1, {"loss/total": 1.0})
    with pytest.raises(OSError, match="no space left"):
        tracker.close()


def test_training_goes_on_where_tensorboards_writers_do_not_import(monkeypatch, tmp_path, capsys):
    monkeypatch.delattr(clu, "metric_writers", raising=False)  # if another test has imported it
    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    tracker = trackers.open_tracker(epath.Path(tmp_path), "")
    for step in range(2):
        tracker.write_scalars(step, {"loss/total": 1.0})
    tracker.close()
    assert capsys.readouterr().err.count("no TensorBoard events") == 1


def test_a_tracker_that_nothing_is_written_to_leaves_nothing(tmp_path):
    trackers.open_tracker(epath.Path(tmp_path), "").close()
    assert not list(tmp_path.iterdir())
