"""Weights out: what is written, and that what is written comes back bit by bit."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import small
import weight_files as files

from igerg_jax.data import tokenizers
from igerg_jax.errors import UserError
from igerg_jax.run import checkpoint
from igerg_jax.run.workdirs import TOKENIZER_FILE
from igerg_jax.tools.weights import exporting, importing, parameters
from igerg_jax.training import train_state

WORDS = ["how are you", "i am well and you", "that is good to hear", "what a day it was"]
BOTH = dict(model__text__norm_first=False, model__text__encoder_layers=2)


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_sentencepiece(WORDS, "bpe", small.VOCAB_SIZE, byte_fallback=False)


def a_run(config, folder):
    """Writes a checkpoint of random parameters in the workdir `folder`; returns them by name."""
    config.data.tokenizer.vocab_size = small.VOCAB_SIZE
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), setup.abstract_state.params
    )
    parameters.write(folder, params, config, "")
    return by_name(params)


def by_name(params) -> dict[str, np.ndarray]:
    return dict(zip(checkpoint.shapes(params), jax.tree.leaves(params), strict=True))


@pytest.mark.parametrize(
    ("make", "changes", "folders"),
    [
        (files.text_config, BOTH, {"bart": "."}),
        (files.text_config, dict(model__text__norm_first=True), {"mbart": "."}),
        (files.vision_config, BOTH, {"bart": ".", "vit": "vision"}),
        (
            files.vision_config,
            dict(model__vision__class_token=False, model__vision__tokens_per_image=3),
            {"mbart": ".", "siglip_vision_model": "vision"},
        ),
        (
            files.vision_config,
            dict(model__vision__stem="convolution"),
            {"mbart": ".", "igerg_vision": "vision"},
        ),
    ],
    ids=["bart", "mbart", "vit", "siglip", "convolutions"],
)
def test_a_round_trip_is_bit_exact(tmp_path, make, changes, folders):
    config = make(**changes)
    before = a_run(config, tmp_path / "run")
    report = exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    for kind, folder in folders.items():
        found = json.loads((tmp_path / "hf" / folder / "config.json").read_text())
        assert found["model_type"] == kind
    vision = tmp_path / "hf" / "vision"
    assert vision.exists() == ("vision" in folders.values())
    is_theirs = vision.exists() and "igerg_vision" not in folders  # ours is in the additions
    assert is_theirs or "vision" not in folders.values() or "trust_remote_code" in report
    source = str(vision) if is_theirs else ""
    importing.run(config, str(tmp_path / "hf"), source, str(tmp_path / "back"), False)
    _, after = parameters.read(tmp_path / "back")
    assert after.keys() == before.keys()
    for name in before:
        assert after[name].tobytes() == np.asarray(before[name]).tobytes(), name


def test_the_tokenizer_goes_along_and_comes_back(tmp_path, tokenizer):
    config = files.text_config()
    a_run(config, tmp_path / "run")
    tokenizer.save(tmp_path / "run" / TOKENIZER_FILE)
    report = exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    assert "SentencePiece" in report
    bart = json.loads((tmp_path / "hf" / "config.json").read_text())
    special = tokenizer.special
    assert (bart["pad_token_id"], bart["eos_token_id"]) == (special.pad, special.eos)
    importing.run(config, str(tmp_path / "hf"), "", str(tmp_path / "back"), False)
    found = json.loads((tmp_path / "back" / "checkpoints" / "0" / "run" / "metadata").read_text())
    assert found["tokenizer_digest"] == tokenizer.digest
    assert (tmp_path / "back" / TOKENIZER_FILE).exists()


def test_generation_settings_are_the_runs(tmp_path):
    config = files.text_config(generate__length_penalty=2.0, generate__beams=3)
    a_run(config, tmp_path / "run")
    exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    found = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert found["max_length"] == config.generate.max_tokens + 1, "it counts the start token"
    assert (found["num_beams"], found["length_penalty"]) == (3, 2.0)
    assert found["early_stopping"] is False


def test_additions_of_another_model_are_refused(tmp_path):
    a_run(files.text_config(), tmp_path / "run")
    exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    other = files.text_config(model__judge__width=16)
    with pytest.raises(UserError, match="judge_network"):
        importing.run(other, str(tmp_path / "hf"), "", str(tmp_path / "back"), False)


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        exporting.export(str(tmp_path / "nowhere"), str(tmp_path / "hf"))
    a_run(files.text_config(), tmp_path / "run")
    (tmp_path / "full").mkdir()
    safetensors.numpy.save_file({"x": np.ones(1)}, tmp_path / "full" / "x.safetensors")
    with pytest.raises(UserError, match="not empty"):
        exporting.export(str(tmp_path / "run"), str(tmp_path / "full"))
