"""Training on batches of two sizes: one program for each, and a stop that changes nothing."""

import os
import signal

import jax
import pytest
import small
from etils import epath

from igerg_jax.batch import SENTENCEPIECE_IDS, lengths
from igerg_jax.data import datasets
from igerg_jax.run.checkpoint import Checkpoints
from igerg_jax.training import model_flops, train_loop, train_state

STEPS, STOP_AFTER = 5, 3


@pytest.fixture
def config():
    """Random words, with dropout; the judge reads them."""
    config = small.only(small.make_config(data__length_buckets=((7, 4),)), "text_denoising")
    config.data.update(dataset=datasets.SYNTHETIC)
    config.data.tokenizer.vocab_size = small.VOCAB_SIZE
    config.model.text.dropout_rate = 0.1
    config.optim.schedule = "inverse_sqrt"
    config.train.update(steps=STEPS, checkpoint_every_steps=0, stall_seconds=0)
    return config


def final_state(config, folder: epath.Path) -> train_state.TrainState:
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, SENTENCEPIECE_IDS)
    checkpoints = Checkpoints(folder, config, datasets.SYNTHETIC)
    state = checkpoints.restore(setup.abstract_state)
    checkpoints.close()
    return state


def test_a_run_stopped_and_resumed_equals_an_uninterrupted_one(config, tmp_path, monkeypatch):
    sizes, stop_after, source = [], [0], train_loop.batches

    def batches(setup, dataset, start_step):
        for step, batch in enumerate(source(setup, dataset, start_step), start_step + 1):
            sizes.append(lengths(batch))
            if step == stop_after[0]:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(train_loop, "batches", batches)
    whole, parts = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "parts")
    summary = train_loop.run(config, whole)
    assert sizes == [(7, 4), (12, 6), (7, 4), (12, 6), (7, 4)]
    stop_after[0] = STOP_AFTER
    with pytest.raises(SystemExit):
        train_loop.run(config, parts)
    assert train_loop.run(config, parts)["resumed_from"] == STOP_AFTER
    small.assert_trees_equal(final_state(config, parts), final_state(config, whole))
    # Rates count what the steps computed.
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, SENTENCEPIECE_IDS)
    short, full = (model_flops.model_flops(each) for each in setup.by_length())
    assert short < full
    flops = summary["model_tflops_per_second_per_device"] * 1e12 * jax.device_count()
    assert flops * summary["step_seconds"] == pytest.approx((3 * short + 2 * full) / 5)
