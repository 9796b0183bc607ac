"""Batches that are not finite, or far too large: training skips or clips them, and goes on."""

import random

import how_often
import jax
import numpy as np
import pytest
from etils import epath
from test_kills import STEPS, make_config

from igerg_jax import storage
from igerg_jax.errors import RunError
from igerg_jax.training import train_loop

pytestmark = pytest.mark.slow


def train(config, folder, monkeypatch, bad):
    """Trains with `bad(step, features)` done to the batch of each step, counted from 1."""
    source = train_loop.batches

    def batches(setup, dataset, start_step):
        for step, batch in enumerate(source(setup, dataset, start_step), start_step + 1):
            bad(step, batch["features"])
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(train_loop, "batches", batches)
        return train_loop.run(config, epath.Path(folder))


def final_losses(folder) -> float:
    lines = storage.read_json_lines(folder / "metrics.jsonl").objects
    return float(np.mean([line["loss/total"] for line in lines[-8:]]))


@pytest.mark.parametrize("seed", range(how_often.POISONED_RUNS))
def test_steps_that_are_not_finite_are_skipped_and_counted(seed, tmp_path, monkeypatch, tried):
    draw, config = random.Random(seed), make_config()
    poisoned = set(draw.sample(range(1, STEPS + 1), 6))
    config.train.max_consecutive_skips = 7

    def bad(step, features):
        if step in poisoned:
            features[draw.randrange(len(features))] = draw.choice([np.nan, np.inf, -np.inf])

    summary = train(config, tmp_path, monkeypatch, bad)
    assert (summary["final_step"], summary["skipped_steps"]) == (STEPS, len(poisoned))
    lines = storage.read_json_lines(tmp_path / "metrics.jsonl").objects
    assert {line["step"] for line in lines if line["skipped"]} == poisoned
    tried("a batch that is not finite", "0", len(poisoned), "step skipped and counted")


@pytest.mark.parametrize("seed", range(how_often.POISONED_RUNS))
def test_a_run_of_bad_steps_ends_with_a_finite_checkpoint(seed, tmp_path, monkeypatch, tried):
    first, config = random.Random(seed).randrange(6, STEPS - 4), make_config()
    config.train.max_consecutive_skips = 3

    def bad(step, features):
        if step >= first:
            features[...] = np.nan

    with pytest.raises(RunError, match=f"step {first + 2}: .* was not finite for 3 steps in a row"):
        train(config, tmp_path, monkeypatch, bad)
    import small_runs

    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name))
    assert int(newest.name) <= first + 2
    for name, array in small_runs.state(newest).items():
        if np.issubdtype(array.dtype, np.floating):
            assert np.isfinite(array).all(), name
    tried("three batches in a row that are not finite", 1, 1, "stops; finite checkpoint")


@pytest.mark.parametrize("seed", range(how_often.POISONED_RUNS))
def test_a_spike_of_the_loss_is_survived(seed, tmp_path, monkeypatch, tried):
    draw, config = random.Random(seed), make_config()
    spikes = set(draw.sample(range(4, STEPS - 8), 2))

    def bad(step, features):
        if step in spikes:
            features *= 1e6

    train(config, tmp_path / "plain", monkeypatch, lambda step, features: None)
    summary = train(config, tmp_path / "spiked", monkeypatch, bad)
    assert summary["skipped_steps"] == 0
    plain, spiked = (final_losses(tmp_path / name) for name in ("plain", "spiked"))
    assert spiked < 1.2 * plain, (plain, spiked)
    lines = storage.read_json_lines(tmp_path / "spiked" / "metrics.jsonl").objects
    norms = [line["grad_norm"] for line in lines]
    assert len(norms) == STEPS and jax.device_count() > 0
    tried("a batch a million times too large", "0", len(spikes), "gradient clipped; loss recovers")
