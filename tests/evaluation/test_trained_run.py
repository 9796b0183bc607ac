"""Opening a trained run."""

import jax
import pytest
import small

from igerg_jax import optim
from igerg_jax.data import tokenizers
from igerg_jax.evaluation import trained_run
from igerg_jax.setup import set_up
from igerg_jax.tools.weights import parameters
from igerg_jax.training import train_state


@pytest.fixture
def no_optimizer(monkeypatch):
    def fail(*arguments, **options):
        pytest.fail("an optimizer was built")

    monkeypatch.setattr(optim, "optimizer", fail)
    monkeypatch.setattr(optim, "schedule", fail)
    monkeypatch.setattr(train_state, "set_up_training", fail)


def test_using_a_run_needs_no_optimizer_and_none_of_its_state(tmp_path, no_optimizer, capsys):
    """The checkpoint has parameters alone, and settings that make no optimizer."""
    words = [f"{a} {b} {c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    tokenizer = tokenizers.train_sentencepiece(words, "unigram", 287)
    tokenizer.save(tmp_path / "tokenizer.model")
    config = small.make_config(optim__name="none", data__tokenizer__vocab_size=287)
    setup = set_up(config, tokenizer.vocab_size, tokenizer.special)
    params = small.make_params(setup.model, small.make_batch(config))
    parameters.write(tmp_path, jax.device_get(params), config, tokenizer.digest)
    run = trained_run.open_run(tmp_path, batch_size=16)
    small.assert_trees_equal(run.params, params)
    assert run.tokenizer.digest == tokenizer.digest
    assert run.config.evaluate.batch_size == 16
    small.assert_trees_equal(trained_run.open_run(tmp_path, config).params, params)
    assert "other inputs" not in capsys.readouterr().err
    config.data.use_images = False
    trained_run.open_run(tmp_path, config)
    said = "it was trained on other inputs: data.use_images (there True, here False)"
    assert said in capsys.readouterr().err
