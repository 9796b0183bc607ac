"""Seconds of the default run's training step: this code, and a PyTorch loop over its objectives.

    python -m benchmarks.default_step [--rounds=10] [--compile]

`configs/pretrain.py` as it is: seven objectives, the contrast and the consistency among them, 16
examples, float32, AdamW. Each side has random weights and the same synthetic batch, and updates
what it trains. With --compile there is also `torch.compile`. It needs requirements-parity.txt.

The peer (`benchmarks.torch_objectives`) is what one would write in PyTorch. It has the same modules
at the same sizes, with `F.scaled_dot_product_attention`, keys and values as one product, and fused
AdamW with the same groups for weight decay, clipped gradients, one backward pass of the weighted
sum. As in the original system, each objective makes its own passes of the encoder and decoder; the
vision tower runs once. Logits of the response are computed once for likelihood and consistency,
and only masked words have logits, as here.

The peer does less than this code: text_denoising masks words one by one, and neither draws spans
nor shuffles turns; there is no learning-rate schedule, no check that gradients are finite, no
accuracy or other metric, no gradient accumulation, no sharding, and no bound on the logits that
exist at once. Rows without a label, an image or a word are not left out of the contrasts.

A round times one step of each side, by the clock and by processor time, which other programs
disturb less. FLOPs are this code's (`training.model_flops`), also for the peer, which computes more
for the same losses. benchmarks/README.md has what was measured.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import torch
from ml_collections import ConfigDict
from torch import nn

from benchmarks import in_turns, rows
from benchmarks.objective_cost import Program, set_up
from benchmarks.rows import Row
from benchmarks.torch_objectives import Losses
from igerg_jax import environment
from igerg_jax.batch import SENTENCEPIECE_IDS, BatchSpec, synthetic
from igerg_jax.data import parts
from igerg_jax.training.model_flops import model_flops


def make_optimizer(model: nn.Module, settings: ConfigDict) -> torch.optim.Optimizer:
    """AdamW at the peak rate; only matrices and tables decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        dict(params=matrices, weight_decay=settings.weight_decay),
        dict(params=others, weight_decay=0.0),
    ]
    betas = settings.b1, settings.b2
    rate = settings.peak_learning_rate
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=settings.eps, fused=True)


def torch_batch(config: ConfigDict) -> dict[str, torch.Tensor]:
    spec = BatchSpec.of(config.data, config.train.batch_size)
    host = synthetic(spec, SENTENCEPIECE_IDS, config.data.tokenizer.vocab_size, seed=0)
    batch = {name: torch.from_numpy(array) for name, array in host.items()}
    return {n: x.long() if x.dtype == torch.int32 else x for n, x in batch.items()}


def torch_step(config: ConfigDict, compiled: bool) -> tuple[Callable[[], Any], int]:
    """(a training step, which returns its loss; the numbers that it trains)."""
    torch.manual_seed(0)
    losses = Losses(config, SENTENCEPIECE_IDS, config.data.tokenizer.vocab_size)
    optimizer, batch = make_optimizer(losses, config.optim), torch_batch(config)
    loss_of = torch.compile(losses) if compiled else losses

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(losses.parameters(), config.optim.clip_norm)
        optimizer.step()
        return loss.detach()

    return step, sum(p.numel() for p in losses.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    rows.add_option(parser)
    options = parser.parse_args()
    environment.keep_freed_memory()  # as main.py does; it serves both sides
    torch.set_num_threads(parts.cores())
    setup = set_up({})
    config, flops = setup.config, model_flops(setup)
    trained = sum(leaf.size for leaf in jax.tree.leaves(setup.abstract_params))
    eager, peer_trained = torch_step(config, compiled=False)
    program = Program(setup)
    print(f"parameters that are trained: {trained:,}, PyTorch {peer_trained:,}", flush=True)
    sides = {"igerg_jax": lambda: program.run(steps=1), "PyTorch eager": eager}
    if options.compile:
        sides["torch.compile"], _ = torch_step(config, compiled=True)
    print(f"{flops / 1e9:.1f} GFLOP a step; {parts.cores()} threads", flush=True)
    medians = in_turns.medians(sides, options.rounds)
    for name, (wall, processor) in medians.items():
        faster = medians[name] / medians["igerg_jax"]
        print(
            f"{name}: {1000 * wall:.0f} ms a step, {1000 * processor:.0f} ms of processor time "
            f"({flops / processor / 1e9:.0f} GFLOP/s); igerg_jax is {faster[0]:.2f} "
            f"({faster[1]:.2f}) times as fast"
        )
    seconds = {name: processor for name, (_, processor) in medians.items()}
    row = Row("the default run's training step", seconds.pop("igerg_jax"), seconds, flop=flops)
    rows.write([row], options)


if __name__ == "__main__":
    main()
