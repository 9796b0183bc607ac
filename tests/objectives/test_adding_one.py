"""An objective is added by a module, a line and its config keys, as CONTRIBUTING.md shows it."""

import json

import contributing
import jax
import numpy as np
import pytest
import raw_data
import small
from etils import epath
from ml_collections import ConfigDict

from igerg_jax import objectives, storage
from igerg_jax.data import mixtures, prepare
from igerg_jax.errors import UserError
from igerg_jax.objectives import combination
from igerg_jax.tools.show import __main__ as show
from igerg_jax.tools.show import page
from igerg_jax.training import train_loop, train_step

NAME = "backward_response"
SUMMARY = "write the conversation that led to a response"


@pytest.fixture
def added(monkeypatch):
    """The module of CONTRIBUTING.md, and its line at the top of the table."""
    (module,) = contributing.examples("an objective")
    names: dict = {}
    exec(module, names)
    before = dict(objectives.OBJECTIVES)
    for name in reversed(before):  # so that they are put back in their order
        monkeypatch.delitem(objectives.OBJECTIVES, name)
    for name, objective in ({NAME: names["OBJECTIVE"]} | before).items():
        monkeypatch.setitem(objectives.OBJECTIVES, name, objective)


def with_keys(config: ConfigDict) -> ConfigDict:
    config.objectives[NAME] = ConfigDict(dict(weight=1.0))
    return config


def test_it_trains_and_the_report_says_what_it_learns(added, tmp_path):
    config = small.only(with_keys(small.make_config(data__dataset="synthetic")), NAME)
    config.data.tokenizer.vocab_size = small.VOCAB_SIZE
    config.train.update(steps=12, log_every_steps=4, evaluate_every_steps=0)
    config.optim.peak_learning_rate = 1e-2
    config.compilation_cache_dir = ""
    train_loop.run(config, epath.Path(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())["objectives"][NAME]
    assert summary["summary"] == SUMMARY
    assert summary["last_loss"] < summary["first_loss"]
    lines = storage.read_json_lines(tmp_path / "metrics.jsonl").objects
    assert all({f"loss/{NAME}", f"metric/{NAME}/accuracy"} <= line.keys() for line in lines)
    assert SUMMARY in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_its_gradient_reaches_both_sides_of_the_model(added):
    config = small.only(with_keys(small.make_config()), NAME)
    model, batch = small.make_model(config), small.make_batch(config)
    params, key = small.make_params(model, batch), jax.random.key(0)
    gradient = jax.jit(lambda p: train_step.loss_gradient(config, model, p, batch, key, 0)[0])
    by_params = gradient(params)
    for part in ("token_embedding", "encoder", "decoder"):
        assert small.largest(by_params[part]) > 1e-5, part
    assert not small.largest(by_params["judge_network"])


def test_it_shows_itself(added, tiny_config):
    prepared = prepare.prepare(with_keys(tiny_config))
    groups = show.collect(prepared, tiny_config, step=0, count=2)
    for example in groups[0].examples:
        given, _, target = example.objectives[NAME]
        assert given.caption == "The encoder is given no images, and" and target.tokens
    text = page.render(groups, prepared, tiny_config, 0)
    heading = NAME.replace("_", "_<wbr>")
    assert text.count(f"<h3>{heading}</h3><small>{SUMMARY}</small>") == 2


def test_data_that_lacks_what_it_needs_are_refused(added, tiny_config, tmp_path):
    config = with_keys(tiny_config)
    config.data.manual_dir = str(raw_data.fer_zip(tmp_path, raw_data.fer_names(8)))
    faces = {"objectives": (NAME,), "datasets": {"fer2013": 1.0}}
    config.data.mixtures = ConfigDict({"faces": faces})
    with pytest.raises(UserError, match=f"'{NAME}' needs words, but .* 'fer2013' has none"):
        mixtures.check(prepare.prepare(config), config)


OTHERS = ("image_emotion", "text_denoising", "masked_multimodal")


def terms_of_others(*names: str):
    """The terms of `OTHERS` when trained with `names`, without dropout."""
    config = small.make_config()
    if NAME in names:
        config = with_keys(config)
    config = small.only(config, *OTHERS, *names)
    model, batch = small.make_model(config), small.make_batch(config)

    @jax.jit
    def terms(params):
        found, _ = combination.sums(config, model, params, batch, jax.random.key(0), 0)
        return {"/".join(name): found[name] for name in found if name[0] in OTHERS}

    return terms(small.make_params(model, batch))


def test_it_changes_no_other_objective(added, monkeypatch):
    """But for rounding, though it is the table's first, and whatever is masked."""
    together = terms_of_others(NAME)
    monkeypatch.delitem(objectives.OBJECTIVES, NAME)
    small.assert_trees_close(terms_of_others(), together, 1e-5, 1e-5)


def test_what_is_masked_does_not_depend_on_who_shares_an_encoder_pass(added, monkeypatch):
    config = with_keys(small.make_config(data__response_tokens=12))
    model, batch, key = small.make_model(config), small.make_batch(config), jax.random.key(0)

    def inputs(*names):
        @jax.jit
        def run(batch):
            given = combination.contexts(config, model, batch, key, 0, np.arange(8), names)
            return {name: given[name].encoder_input for name in OTHERS[1:]}

        return run(batch)

    together = inputs(NAME, *OTHERS)
    monkeypatch.delitem(objectives.OBJECTIVES, NAME)
    small.assert_trees_equal(together, inputs(*OTHERS))


@pytest.mark.parametrize("dropout_rate", [0.0, 0.3])
def test_dropout_alone_depends_on_who_shares_the_encoder_pass(added, dropout_rate):
    config = small.make_config(data__response_tokens=12, model__text__dropout_rate=dropout_rate)
    config, key, others = with_keys(config), jax.random.key(0), OTHERS[1:]
    model, batch = small.make_model(config), small.make_batch(config)

    @jax.jit
    def encodings(params):
        visual = model.apply({"params": params}, batch, method="visual_tokens")

        def of_others(*names):
            given = combination.contexts(config, model, batch, key, 0, np.arange(8), names, visual)
            encoded = combination.with_encodings(given, params, key)
            return {name: encoded[name].encoding.hidden_BxLxD for name in others}

        return of_others(NAME, *others), of_others(*others)

    together, without = encodings(small.make_params(model, batch))
    same = {name: np.allclose(together[name], without[name], atol=1e-5) for name in others}
    assert same == dict.fromkeys(others, not dropout_rate)


def test_the_table_has_each_under_its_own_name():
    assert [one.name for one in objectives.OBJECTIVES.values()] == list(objectives.MODULES)
