"""The comparisons with PyTorch compare the same work."""

import argparse
import pathlib

import jax
import pytest

from igerg_jax.batch import NUM_EMOTIONS, SENTENCEPIECE_IDS, BatchSpec, synthetic
from igerg_jax.training import model_flops, train_state

FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_both_sides_are_given_the_same(monkeypatch):
    """Images, tokens, and FLOPs of matrix products, as each framework counts its own."""
    torch = pytest.importorskip("torch", reason="the comparison needs torch and transformers")
    pytest.importorskip("transformers", reason="the comparison needs torch and transformers")
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.syspath_prepend(str(FOLDER))
    import torch_peer
    import train_gpu

    options = argparse.Namespace(tiny=True, remat="none", batch_size=2)
    config = train_gpu.make_config("base", options)
    train_gpu.only_compared(config)
    vocab_size = config.data.tokenizer.vocab_size
    setup = train_state.set_up_training(config, vocab_size, SENTENCEPIECE_IDS, jax.devices()[:1])
    host = synthetic(BatchSpec.of(config.data, 2), SENTENCEPIECE_IDS, vocab_size, seed=0)
    batch = {k: torch.from_numpy(v) for k, v in host.items()}
    batch = {k: v.long() if v.dtype == torch.int32 else v for k, v in batch.items()}
    peer = torch_peer.Peer(config, SENTENCEPIECE_IDS, NUM_EMOTIONS)
    with FlopCounterMode(display=False) as counter:
        loss = peer(batch)
    assert torch.isfinite(loss)
    assert peer.inputs == train_gpu.count_inputs(setup)
    assert 3 * counter.get_total_flops() == pytest.approx(model_flops.model_flops(setup), rel=0.1)


@pytest.mark.slow
def test_the_peer_of_the_default_step_trains_as_much(monkeypatch):
    torch = pytest.importorskip("torch", reason="the comparison needs torch")
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    from benchmarks import default_step, objective_cost

    setup = objective_cost.set_up({})
    step, trained = default_step.torch_step(setup.config, compiled=False)
    assert trained == sum(leaf.size for leaf in jax.tree.leaves(setup.abstract_params))
    losses = torch.stack([step() for _ in range(8)])
    assert torch.isfinite(losses).all()
    assert losses[-1] < losses[0] - 1
