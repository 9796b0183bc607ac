"""How a training step grows with examples, layers, images, tokens, words and devices.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.growth [--only=examples] [--rounds=5]
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m benchmarks.growth --only=devices

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

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.objective_cost import Program
from configs import pretrain
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


def exponents(sizes: tuple[int, ...], costs: list[float]) -> tuple[float, float]:
    """p of size ** p, fitted to all, and of the last doubling."""
    x, y = np.log(sizes), np.log(costs)
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def show(what: str, rounds: int) -> None:
    """Prints a table of one size, and its exponents."""
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
    print(
        f"{what}: exponent of GFLOP {of_flops[0]:.2f} (last doubling {of_flops[1]:.2f}), "
        f"of ms {of_time[0]:.2f} ({of_time[1]:.2f})",
        flush=True,
    )


def show_devices() -> None:
    """Prints the step of `base` that the compiler expects on each of `SLICES`."""
    for topology in SLICES:
        config = pretrain.get_config("base")
        count = math.prod(map(int, topology.partition(":")[2].split("x")))
        config.train.batch_size = EXAMPLES_PER_DEVICE * count
        report = compile_report.compile_for(config, topology, slices=1)
        sent = sum(each["bytes"] for each in report["collectives"]) / 1e9
        print(
            f"{count:4} devices, {config.train.batch_size:5} examples: "
            f"{1000 * report['step_seconds']:.0f} ms a step, {sent:.2f} GB sent by a device",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=[*SIZES, "devices"], help="default: all but devices")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.only == "devices":
        show_devices()
        return
    for what in [options.only] if options.only else SIZES:
        show(what, options.rounds)


if __name__ == "__main__":
    main()
