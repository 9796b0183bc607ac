"""The models that come with the package: they load, and their cards tell what they do."""

import importlib
import json
import re

import pytest
import small
from ml_collections import ConfigDict

from configs import pretrain
from igerg_jax.data import mixtures
from igerg_jax.evaluation import trained_run
from igerg_jax.evaluation.evaluator import Evaluator
from igerg_jax.run import checkpoint, recorded_config, weights_folder, workdirs
from igerg_jax.setup import set_up

NAMES = weights_folder.shipped_names()
CHATTING = tuple(name for name in NAMES if name != "faces")  # which is a vision tower alone
# The card's name of a figure on the test split of chitchat_peeps/tiny -> its name in summary.json.
FIGURES = {
    "image emotion, accuracy": "image_emotion_accuracy",
    "response perplexity": "response_perplexity",
}


def card_figures(card: str) -> dict[str, float]:
    """{row: figure} of the card's table about `chitchat_peeps/tiny`."""
    table = card.partition("`chitchat_peeps/tiny`")[2].partition("\n## ")[0]
    return {
        name: float(value) for name, value in re.findall(r"^\| (.+?) \| ([\d.]+) \|", table, re.M)
    }


def test_there_are_a_model_and_a_tower():
    assert {"small", "faces"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_has_the_keys_of_its_preset(name):
    folder = weights_folder.SHIPPED / name
    assert sum(file.stat().length for file in folder.iterdir()) < 20e6
    recorded = weights_folder.read_run(folder)["config"]
    config = importlib.import_module("configs." + recorded["name"])
    preset = workdirs.as_json(config.get_config(recorded["preset"]))
    assert recorded == preset, "the command that the card gives trains this model"


@pytest.mark.parametrize("preset", ["daily_dialog", "meld"])
def test_the_tower_is_that_of_the_presets_with_real_faces(preset):
    config = pretrain.get_config(preset)
    setup = set_up(config, config.data.tokenizer.vocab_size, small.SPECIAL)
    assert config.init_from == "faces"
    checkpoint.check_init(config.init_from, setup, config.init_parts)


@pytest.mark.parametrize("name", CHATTING)
def test_two_figures_of_its_card(name, data_dir):
    folder = weights_folder.SHIPPED / name
    config = ConfigDict(json.loads(recorded_config.get_config(name).to_json_best_effort()))
    config.data.update(dataset="chitchat_peeps/tiny", data_dir=str(data_dir))
    config.data.mixtures = ConfigDict()
    config.data.tokenizer.update(path=str(folder / workdirs.TOKENIZER_FILE), mixture="")
    config.evaluate.examples = 0
    run = trained_run.open_run(folder, config, mixtures.SPLIT_KEYS)
    values = Evaluator(run.setup, run.dataset).metrics(run.params, "test", generate=False).values
    figures = card_figures((folder / "README.md").read_text())
    assert {key: values[metric] for key, metric in FIGURES.items()} == pytest.approx(
        figures, rel=0.01
    )
