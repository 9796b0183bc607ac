"""Seconds of a training step on a CPU: this code, and transformers with PyTorch, in turn.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.train_cpu [--rounds=5] [--compile]
        [--examples=16] [--layers=6]

Response generation by a model of BART-base's size, in float32 with AdamW and dropout: 16 examples
of five image vectors, 128 context tokens and 32 response tokens. Each side has random weights and
updates what it trains. With --compile there is also `torch.compile`. It needs
requirements-parity.txt.

A round times one step of each side, by the clock and by processor time, which other programs
disturb less. The peaks are those of float32 matrix products with as many threads.

On one core of an AMD EPYC with AVX-512 (`taskset -c 1`, three rounds, the other core busy; jax
0.10.2, torch 2.13.0, transformers 5.24.0) this code takes 9.2 s a step and PyTorch 10.1, so it is
1.10 times as fast. The products, 930 GFLOP, would take 3.8 s at XLA's peak there, 247 GFLOP/s
(PyTorch's is 106): most of a step is something else, and what is not known yet. It updated 158 M
numbers then, and updates 140 M now: the judge, heads and contrastive projections, which nothing
here trains, are left out. On a busy core that takes a step of one example with 8 context and 4
response tokens from 1.62 to 1.36 s of processor time (medians of 20 in turns; layers scanned).

On one core of Zen 3 a step takes 22.6 s and PyTorch's 16.8, 0.74 times as fast (three rounds, other
programs ran for part of them; memory is kept). Products at XLA's peak there, 75 GFLOP/s, would take
12.4 s; PyTorch's peak is 82. In a profile of 21.7 s (the XLA profiler, other programs idle),
products take 18.7 s, 50 GFLOP/s: 13.3 s YNNPACK's and 5.4 Eigen's, which compute kernels'
gradients; everything else takes 3.0 s. So 1.2 times PyTorch's speed, 14.0 s, would need products
at 84 GFLOP/s. Since then six of Eigen's products per side, 300 and 71 ms each, are YNNPACK's
(`arithmetic._matrix_product`), which should save 1 s; the step has not been measured again.

That peak is not every machine's: on a core of an EPYC of Zen 4, XLA's products of `MATRICES` reach
106 GFLOP/s of processor time, and 930 GFLOP would take 8.8 s. What was tried there, with two layers
a side, in processor time a step: Eigen's products in place of YNNPACK's (the compiler option
xla_cpu_experimental_ynn_fusion_type="") take 6.37 s in place of 5.87. With two encoder layers, one
decoder layer and 16,000 words, a step takes 3.78 s and 217,542 page faults; with 2 MiB pages, as
above, 3.52 s and 878 faults; with malloc told to keep what is freed (glibc.malloc.mmap_max=0 and a
trim_threshold of 16 GiB), 3.77 s and as many faults as without: XLA's threads have arenas of their
own, which keep little (`igerg_jax.environment.keep_freed_memory` leaves them none).
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import nn
from transformers import BartModel

from benchmarks import in_turns, rows
from benchmarks.rows import Row
from benchmarks.torch_peer import bart_config
from configs.baselines import coarse_visual
from igerg_jax import environment
from igerg_jax.batch import SENTENCEPIECE_IDS, BatchSpec, synthetic
from igerg_jax.data import parts
from igerg_jax.parallel import sharding
from igerg_jax.training import model_flops, train_state, train_step

CONTEXT_TURNS, VOCABULARY = 4, 50_265
# AdamW's for each number that is trained: it reads its value, its gradient and two moments, and
# writes all but the gradient.
ADAMW_BYTES = 7 * 4
MATRICES = (2128, 768, 3072)  # of the peaks: the encoder's largest product


def make_config(examples: int, layers: int) -> ConfigDict:
    """BART-base with a vector per image, learnt by likelihood alone; layers are those of a side."""
    config = coarse_visual.get_config("paper")
    config.model.compute_dtype = "float32"
    config.data.update(context_turns=CONTEXT_TURNS, context_tokens=128, response_tokens=32)
    config.data.tokenizer.vocab_size = VOCABULARY
    config.train.batch_size = examples
    config.model.text.update(encoder_layers=layers, decoder_layers=layers, scan_layers=False)
    config.model.vocab_chunk_tokens = config.data.response_tokens
    return config


class Peer(nn.Module):
    """transformers' BART, with a projected vector per image before the words."""

    def __init__(self, config: ConfigDict):
        super().__init__()
        self.bart = BartModel(bart_config(config))
        self.project = nn.Linear(config.data.feature_dim, config.model.text.width)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean cross-entropy of the responses."""
        words_BxSxD = self.bart.shared(batch["context"])
        x_BxLxD = torch.cat([self.project(batch["features"]), words_BxSxD], dim=1)
        mask_BxL = torch.cat([batch["image_mask"], batch["context"] != 0], dim=1)
        response_BxT = batch["response"]
        hidden_BxTxD = self.bart(
            inputs_embeds=x_BxLxD,
            attention_mask=mask_BxL.long(),
            decoder_input_ids=F.pad(response_BxT[:, :-1], (1, 0)),
        ).last_hidden_state
        logits_BxTxV = F.linear(hidden_BxTxD, self.bart.shared.weight)
        return F.cross_entropy(logits_BxTxV.flatten(0, 1), response_BxT.flatten())


def jax_step(config: ConfigDict) -> tuple[Callable[[], Any], int, float]:
    """(a training step, the numbers that it trains, FLOPs of its matrix products)."""
    setup = train_state.set_up_training(config, VOCABULARY, SENTENCEPIECE_IDS, jax.devices()[:1])
    compiled = train_step.lower_step(setup).compile()
    host = synthetic(setup.spec, SENTENCEPIECE_IDS, VOCABULARY, seed=0)
    batch = sharding.to_devices(host, sharding.batch_sharding(setup.mesh))
    state = train_state.init_state(setup)
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    return step, trained, model_flops.model_flops(setup)


def torch_step(config: ConfigDict, compiled: bool) -> tuple[Callable[[], Any], int]:
    """(a training step, the numbers that it trains) of the same sizes."""
    torch.manual_seed(0)
    peer = Peer(config)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=3e-4, weight_decay=0.01)
    spec = BatchSpec.of(config.data, config.train.batch_size)
    host = synthetic(spec, SENTENCEPIECE_IDS, VOCABULARY, seed=0)
    batch = {name: torch.from_numpy(host[name]) for name in ("features", "image_mask")}
    batch |= {name: torch.from_numpy(host[name]).long() for name in ("context", "response")}
    loss_of = torch.compile(peer) if compiled else peer

    def step() -> None:
        optimizer.zero_grad()
        loss_of(batch).backward()
        optimizer.step()

    return step, sum(p.numel() for p in peer.parameters())


def peaks() -> dict[str, float]:
    """{library: FLOP/s of its float32 products of `MATRICES`}."""
    m, k, n = MATRICES
    a, b = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
    product, x, y = jax.jit(jnp.matmul), jnp.array(a), jnp.array(b)
    p, q = torch.from_numpy(a), torch.from_numpy(b)
    calls = {"XLA": lambda: product(x, y).block_until_ready(), "PyTorch": lambda: p @ q}
    seconds = {
        name: min(in_turns.timed(call)[0] for _ in range(10)) for name, call in calls.items()
    }
    return {name: 2 * m * k * n / second for name, second in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--examples", type=int, default=16, help="of a step")
    parser.add_argument("--layers", type=int, default=6, help="of the encoder and of the decoder")
    rows.add_option(parser)
    options = parser.parse_args()
    environment.keep_freed_memory()  # as main.py does; it serves both sides
    torch.set_num_threads(parts.cores())
    config = make_config(options.examples, options.layers)
    ours, trained, flops = jax_step(config)
    eager, peer_trained = torch_step(config, compiled=False)
    sides = {"igerg_jax": ours, "PyTorch eager": eager}
    if options.compile:
        sides["torch.compile"], _ = torch_step(config, compiled=True)
    print(f"parameters that are trained: {trained / 1e6:.0f} M, PyTorch {peer_trained / 1e6:.0f} M")
    for library, peak in peaks().items():
        print(f"matrix products, {library}: {peak / 1e9:.0f} GFLOP/s with {parts.cores()} threads")
    medians = in_turns.medians(sides, options.rounds)
    for name, (wall, processor) in medians.items():
        faster = medians["PyTorch eager"] / medians[name]
        print(
            f"{name}: {wall:.2f} s a step, {flops / wall / 1e9:.0f} GFLOP/s; {processor:.2f} s of "
            f"processor time; {faster[0]:.2f} ({faster[1]:.2f}) times as fast as PyTorch eager"
        )
    seconds = {name: processor for name, (_, processor) in medians.items()}
    what = f"training step: {options.examples} examples, {options.layers} layers a side"
    moved = ADAMW_BYTES * trained
    row = Row(what, seconds.pop("igerg_jax"), seconds, flop=flops, memory_bytes=moved)
    rows.write([row], options)


if __name__ == "__main__":
    main()
