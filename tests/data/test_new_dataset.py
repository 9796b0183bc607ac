"""Adding a dataset takes one module, and one line in the table."""

import io
import sys

import contributing
import numpy as np
import pytest
from PIL import Image

from igerg_jax import batch as batch_lib
from igerg_jax import checks
from igerg_jax.batch import EMOTION_ID
from igerg_jax.data import builders, datasets
from igerg_jax.data.builders import source, tfds_builder
from igerg_jax.errors import UserError


@pytest.fixture
def moods(tmp_path, monkeypatch):
    """The module of CONTRIBUTING.md, importable, and its line in the table."""
    (module,) = contributing.examples("a dataset")
    (tmp_path / "moods.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(builders.MODULES, "moods", "moods")
    yield
    sys.modules.pop("moods", None)


@pytest.fixture
def config(tiny_config, tmp_path):
    tiny_config.data.update(dataset="moods", data_dir=str(tmp_path / "data"))
    tiny_config.data.tokenizer.update(model_type="bpe", vocab_size=300)
    return tiny_config


def test_it_is_prepared_and_yields_batches(moods, config):
    dataset = datasets.open_dataset(config)
    assert dataset.split_names == ("train", "valid", "test")
    assert "36 training windows" in dataset.describe(config)
    batch = next(dataset.train_batches(config, 0, np.arange(config.train.batch_size)))
    batch_lib.check(batch, batch_lib.BatchSpec.of(config.data, config.train.batch_size))
    assert set(np.unique(batch["image_emotion"])) <= {
        -1, EMOTION_ID["joy"], EMOTION_ID["sadness"]
    }  # fmt: skip
    joyful = batch["image_emotion"] == EMOTION_ID["joy"]
    pixels = batch["images"].mean(axis=(2, 3))
    # The wall of a joyful turn is yellow and that of a sad one blue, after colour jitter too.
    assert joyful.any() and (pixels[joyful][:, 0] > pixels[joyful][:, 2]).all()
    assert "before this wall, my friend" in dataset.tokenizer.decode(batch["context"][0])


def test_it_is_a_tfds_dataset(moods, tmp_path):
    options = source.Options(str(tmp_path / "tfds"), "", "", 0.0)
    builder = tfds_builder.make("moods/small", options)
    builder.download_and_prepare()
    assert builder.info.full_name == "moods/small/1.0.0"
    assert builder.info.citation == "@misc{moods}"
    assert set(builder.builder_configs) == {"small", "large"}
    turns = builders.splits("moods/small", options)["valid"]
    examples = builder.as_data_source("valid")
    assert len(examples) == len(turns) == 12
    for i in range(len(turns)):
        example, row = examples[i], turns.row(i)
        assert example["text"].decode() == row["text"] and example["wall"].decode() == row["wall"]
        with Image.open(io.BytesIO(turns.image(i))) as image:
            np.testing.assert_allclose(example["image"].astype(int), np.asarray(image), atol=3)


def test_it_is_refused_by_a_wrong_name_and_named_among_the_known(moods, config):
    config.data.dataset = "moods/huge"
    with pytest.raises(UserError, match="no config 'huge'; available: small, large"):
        checks.check_training(config, starts=True)
    config.data.dataset = "mood"
    with pytest.raises(UserError, match=r"unknown dataset 'mood'.*moods"):
        checks.check_training(config, starts=True)


def test_synthetic_is_a_dataset_like_the_others(config):
    config.data.dataset = datasets.SYNTHETIC
    size, spec = 512, batch_lib.BatchSpec.of(config.data, config.train.batch_size)
    config.data.tokenizer.vocab_size = size
    dataset = datasets.open_dataset(config)
    assert dataset.split_names == () and dataset.tokenizer.vocab_size == size
    rows_b = np.array([1, 5])
    batches = dataset.train_batches(config, 7, rows_b)
    for step in (7, 8):
        expected = batch_lib.synthetic(spec, batch_lib.SENTENCEPIECE_IDS, size, seed=step)
        for name, rows in next(batches).items():
            np.testing.assert_array_equal(rows, expected[name][rows_b], err_msg=name)
