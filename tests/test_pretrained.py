"""The models that come with the package: they load, and their cards tell what they do."""

import json
import re

import pytest
from ml_collections import ConfigDict

from configs import pretrain
from igerg_jax.data import mixtures
from igerg_jax.evaluation import trained_run
from igerg_jax.evaluation.evaluator import Evaluator
from igerg_jax.run import recorded_config, weights_folder, workdirs

NAMES = weights_folder.shipped_names()
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


def test_there_is_small():
    assert "small" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_has_the_keys_of_its_preset(name):
    folder = weights_folder.SHIPPED / name
    assert sum(file.stat().length for file in folder.iterdir()) < 20e6
    recorded = workdirs.as_json(recorded_config.get_config(name))
    preset = workdirs.as_json(pretrain.get_config(recorded["preset"]))
    assert recorded == preset, "the command that the card gives trains this model"


@pytest.mark.parametrize("name", NAMES)
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
