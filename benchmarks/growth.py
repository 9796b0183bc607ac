"""How a training step grows with examples, layers, images, tokens, words and devices.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.growth
        [--only=examples,layers] [--rounds=5]
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m benchmarks.growth --only=devices
        [--slices=v5e:2x2,v5e:4x4]

The default run's step on one device, with one size doubled again and again and all else as it is:
GFLOP of the model (`training.model_flops`) and milliseconds of processor time, the median of the
rounds, in which the programs of all sizes take turns on random batches. The exponent p is that of
size ** p, fitted to all sizes by least squares on logarithms, and beside it that of the last
doubling: what does not grow with a size weighs less there.

`devices` compiles `base` for TPU v5e slices, with as many examples on each device, and prints the
step that the compiler expects. Where it takes as long on every slice, scaling is linear. It needs
requirements-tpu.txt. benchmarks/README.md has what was measured.
"""

import argparse
import math
import statistics
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import rows
from benchmarks.objective_cost import Program
from benchmarks.rows import Row
from configs import pretrain
from igerg_jax import environment
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.tools.tpu_report import compile_report
from igerg_jax.training import train_state
from igerg_jax.training.model_flops import model_flops

SIZES = {
    "examples": (8, 16, 32, 64),
    "layers": (2, 4, 8),  # of the encoder and of the decoder
    "images": (2, 4, 8),  # of a window
    "context tokens": (40, 80, 160, 320),
    "response tokens": (28, 56, 112),
    "words": (2048, 4096, 8192, 16384),
}
SLICES = ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")
EXAMPLES_PER_DEVICE = 8


def set_up(what: str, size: int) -> train_state.TrainingSetup:
    """The default run on one device, with a size changed."""
    config = pretrain.get_config()
    change(config, what, size)
    words = config.data.tokenizer.vocab_size
    return train_state.set_up_training(config, words, SENTENCEPIECE_IDS, jax.devices()[:1])


def change(config: ConfigDict, what: str, size: int) -> None:
    text = config.model.text
    if what == "examples":
        config.train.batch_size = size
    elif what == "layers":
        text.update(encoder_layers=size, decoder_layers=size)
    elif what == "images":
        config.data.context_turns = size - 1  # and the response's own
    elif what == "words":
        config.data.tokenizer.vocab_size = size
    else:
        config.data[what.replace(" ", "_")] = size
        text.max_positions = max(text.max_positions, 2 * size)


def exponents(sizes: Sequence[int], costs: Sequence[float]) -> tuple[float, float]:
    """p of size ** p, fitted to all, and of the last doubling."""
    x, y = np.log(sizes), np.log(costs)
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def show(what: str, rounds: int) -> Row:
    """Prints a table of one size and its exponents; the row is of the largest size."""
    sizes = SIZES[what]
    setups = [set_up(what, size) for size in sizes]
    programs = [Program(setup) for setup in setups]
    for _ in range(rounds + 1):  # the first one warms up
        for program in programs:
            program.run(steps=1)
    flops = [model_flops(setup) / 1e9 for setup in setups]
    milliseconds = [statistics.median(program.milliseconds[1:]) for program in programs]
    for size, cost, taken in zip(sizes, flops, milliseconds, strict=True):
        print(f"{size:6} {what}: {cost:7.1f} GFLOP {taken:7.0f} ms")
    of_flops, of_time = (exponents(sizes, costs) for costs in (flops, milliseconds))
    grown = (
        f"exponent of GFLOP {of_flops[0]:.2f} (last doubling {of_flops[1]:.2f}), "
        f"of ms {of_time[0]:.2f} ({of_time[1]:.2f})"
    )
    print(f"{what}: {grown}", flush=True)
    name = f"growth of a step: {sizes[0]:,} to {sizes[-1]:,} {what}"
    return Row(name, milliseconds[-1] / 1000, flop=1e9 * flops[-1], note=grown)


def show_devices(slices: list[str]) -> None:
    """Prints what the compiler expects of a step of `base` on each of `slices`, and exponents."""
    counts, costs = [], []
    for topology in slices:
        config = pretrain.get_config("base")
        counts.append(math.prod(map(int, topology.partition(":")[2].split("x"))))
        config.train.batch_size = EXAMPLES_PER_DEVICE * counts[-1]
        report = compile_report.compile_for(config, topology, slices=1)
        sent = sum(each["bytes"] for each in report["collectives"]) / 1e9
        costs.append([*(1000 * each for each in report["step_seconds"].values()), sent])
        print(
            f"{counts[-1]:4} devices, {config.train.batch_size:5} examples: ms a step by the "
            f"roofline {costs[-1][0]:.1f}, per op {costs[-1][1]:.1f}; {sent:.2f} GB sent by a "
            f"device; compiled in {report['compile_cpu_seconds']:.0f} s of processor time",
            flush=True,
        )
    if len(counts) > 1:
        names = ("ms by the roofline", "ms per op", "GB sent by a device")
        for name, cost in zip(names, zip(*costs, strict=True), strict=True):
            fitted, last = exponents(counts, cost)
            print(f"devices: exponent of {name} {fitted:.2f} (last step {last:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = ",".join(SIZES)
    parser.add_argument("--only", default=sizes, help=f"devices, or some of {sizes}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", default=",".join(SLICES), help="with --only=devices")
    rows.add_option(parser)
    options = parser.parse_args()
    environment.keep_freed_memory()  # as main.py does
    chosen = options.only.split(",")
    if unknown := {*chosen} - {*SIZES, "devices"}:
        parser.error(f"--only: {', '.join(sorted(unknown))}; there are devices, {sizes}")
    measured = [show(what, options.rounds) for what in chosen if what != "devices"]
    if "devices" in chosen:
        show_devices(options.slices.split(","))
    rows.write(measured, options)


if __name__ == "__main__":
    main()
