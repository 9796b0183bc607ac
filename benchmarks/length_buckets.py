"""What `data.length_buckets` saves: padding, FLOPs and processor time of a step.

    python -m benchmarks.length_buckets --manual_dir=DIR [--rounds=5]
        [--datasets=meld,paired/daily_dialog+fer2013]
        [--lengths=128,32] [--buckets="((44, 20), (72, 32))"]

For the model of the preset `meld` (which is that of `daily_dialog`), on one device. The sizes of
all steps of an epoch come from the order that training reads. FLOPs are those of the compile
report, of the model and of the compiled program. Processor time is the median of the rounds, in
which the programs of all sizes, the full one included, take turns on random batches. A size's cost
times its share of the steps, added up, is the mean cost of a step; to the full size's it is as real
tokens per second with buckets are to those without. With --rounds=0 nothing is compiled, and only
the model's FLOPs are printed.
"""

import argparse
import ast
import dataclasses
import math
import statistics

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import rows
from benchmarks.objective_cost import Program
from benchmarks.rows import Row
from configs import pretrain
from igerg_jax import checks, environment
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.data import lengths, mixtures
from igerg_jax.data.prepare import prepare
from igerg_jax.training import train_state
from igerg_jax.training.model_flops import model_flops


@dataclasses.dataclass
class Dealt:
    """An epoch of a dataset, dealt to steps."""

    dataset: str
    windows: int
    tokens: float  # of context and response, in a step, padding not counted
    share_L: np.ndarray  # float64[L], of the steps, that have each size


def make_config(options: argparse.Namespace) -> ConfigDict:
    config = pretrain.get_config("meld")
    context, response = ast.literal_eval(options.lengths)
    config.data.update(context_tokens=context, response_tokens=response)
    config.data.update(length_buckets=ast.literal_eval(options.buckets))
    config.data.update(manual_dir=options.manual_dir, balance_emotions=0.0)
    config.init_from, config.init_parts = "", ()
    checks.check_model(config)
    return config


def deal(config: ConfigDict, dataset: str) -> Dealt:
    """Reads no image and no word."""
    config = config.copy_and_resolve_references()
    config.data.dataset = dataset
    split, size = prepare(config).split("train"), config.train.batch_size
    stream = mixtures.streams(prepare(config), config)[mixtures.MAIN]
    steps = split.num_windows // size
    buckets = [stream.step(step, size).bucket for step in range(steps)]
    share_L = np.bincount(buckets, minlength=len(config.data.length_buckets) + 1) / steps
    counts = lengths.count(split, config)
    context_W = np.minimum(counts.context, config.data.context_tokens)
    response_W = np.minimum(counts.response, config.data.response_tokens)
    tokens = size * float((context_W + response_W).mean())
    return Dealt(dataset, split.num_windows, tokens, share_L)


def describe(dealt: Dealt, room_L: np.ndarray, costs: dict[str, list[float]]) -> str:
    """Padding, and the mean cost of a step with and without buckets, by the unit of each cost."""
    shares = ", ".join(f"{share:.1%}" for share in dealt.share_L)
    before, after = (1 - dealt.tokens / room for room in (room_L[-1], dealt.share_L @ room_L))
    lines = [
        f"{dealt.dataset}: {dealt.windows:,} windows; steps of each size: {shares}",
        f"  padding {before:.1%} without buckets, {after:.1%} with",
    ]
    for unit, cost_L in costs.items():
        mean, full = float(dealt.share_L @ np.array(cost_L)), cost_L[-1]
        lines.append(
            f"  {unit} a step: {full:.2f} without, {mean:.2f} with: {full / mean:.2f} times the "
            f"real tokens ({dealt.tokens / full:.1f} and {dealt.tokens / mean:.1f} for each)"
        )
    return "\n".join(lines)


def row_of(dealt: Dealt, costs: dict[str, list[float]]) -> Row:
    """A mean step with buckets, beside one without."""
    cost_L = costs.get("processor seconds", [math.nan] * len(dealt.share_L))
    flop = 1e9 * float(dealt.share_L @ costs["GFLOP of the model"])
    mean = float(dealt.share_L @ np.array(cost_L))
    return Row(f"a step of {dealt.dataset}", mean, {"without buckets": cost_L[-1]}, flop=flop)


def measured(setups: list[train_state.TrainingSetup], rounds: int) -> dict[str, list[float]]:
    """{unit: cost of a step of each size}, compiled."""
    programs = [Program(setup) for setup in setups]
    for program in programs:  # once for what only the first steps of a process do
        program.run(steps=1)
        program.milliseconds.clear()
    for _ in range(rounds):
        for program in programs:
            program.run(steps=2)
    medians = [statistics.median(program.milliseconds) / 1000 for program in programs]
    flops = [program.flops() / 1e9 for program in programs]
    return {"GFLOP of the program": flops, "processor seconds": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--manual_dir", required=True)
    parser.add_argument("--datasets", default="meld,paired/daily_dialog+fer2013")
    parser.add_argument("--lengths", default="128,32", help="the full size: context, response")
    parser.add_argument("--buckets", default="((44, 20), (72, 32))")
    parser.add_argument("--rounds", type=int, default=5)
    rows.add_option(parser)
    options = parser.parse_args()
    environment.keep_freed_memory()  # as main.py does
    config = make_config(options)
    dealt = [deal(config, dataset) for dataset in options.datasets.split(",")]
    words = config.data.tokenizer.vocab_size
    setups = train_state.set_up_training(
        config, words, SENTENCEPIECE_IDS, jax.devices()[:1]
    ).by_length()
    costs = {"GFLOP of the model": [model_flops(setup) / 1e9 for setup in setups]}
    if options.rounds:
        costs |= measured(setups, options.rounds)
    for unit, cost_L in costs.items():
        of_sizes = zip(setups, cost_L, strict=True)
        listed = ", ".join(f"{each.spec.lengths} {cost:.2f}" for each, cost in of_sizes)
        print(f"{unit} by size: {listed}")
    room_L = np.array([config.train.batch_size * sum(setup.spec.lengths) for setup in setups])
    for each in dealt:
        print(describe(each, room_L, costs), flush=True)
    rows.write([row_of(each, costs) for each in dealt], options)


if __name__ == "__main__":
    main()
