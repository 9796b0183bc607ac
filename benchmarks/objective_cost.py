"""What a step of the default run spends on each objective: what leaving it out saves.

    python -m benchmarks.objective_cost [--rounds=20]

For `configs/pretrain.py`, without each objective, and without the contrast and the consistency of
emotional_response: the FLOPs of a step's matrix products (`training.model_flops`), and milliseconds
of processor time, which other programs disturb less than they do the clock: the median of the
rounds, in which all programs take turns on random batches. With --rounds=0 nothing is compiled, and
only FLOPs are printed. Objectives share passes, so what each saves does not add up to the whole.
"""

import argparse
import math
import statistics
import time

import jax

from benchmarks import rows
from benchmarks.rows import Row
from configs import pretrain
from igerg_jax import environment
from igerg_jax.batch import SENTENCEPIECE_IDS, synthetic
from igerg_jax.parallel import sharding
from igerg_jax.tools.tpu_report import hlo
from igerg_jax.training import model_flops, train_state, train_step

STEPS = 5  # in a round


def variants() -> dict[str, dict[str, float]]:
    """{what is left out: {key: value}}, "" being the whole step."""
    without = [f"{name}.weight" for name in pretrain.get_config().objectives]
    without += [f"emotional_response.{part}_weight" for part in ("contrast", "consistency")]
    named = {key.removesuffix("weight").rstrip("._"): key for key in without}
    return {"": {}} | {name: {f"objectives.{key}": 0.0} for name, key in named.items()}


def set_up(changes: dict[str, float]) -> train_state.TrainingSetup:
    """The default run on one device, with changes."""
    config = pretrain.get_config()
    config.update_from_flattened_dict(changes)
    words = config.data.tokenizer.vocab_size
    return train_state.set_up_training(config, words, SENTENCEPIECE_IDS, jax.devices()[:1])


class Program:
    """A compiled step, its state and its batch."""

    def __init__(self, setup: train_state.TrainingSetup):
        self._compiled = train_step.lower_step(setup).compile()
        host = synthetic(setup.spec, SENTENCEPIECE_IDS, setup.model.vocab_size, seed=0)
        self._batch = sharding.to_devices(host, sharding.batch_sharding(setup.mesh))
        self._state = train_state.init_state(setup)
        self.milliseconds: list[float] = []

    def run(self, steps: int = STEPS) -> None:
        """Runs steps, and keeps the processor time of one."""
        start = time.process_time()
        for _ in range(steps):
            self._state, _ = self._compiled(self._state, self._batch)
        jax.block_until_ready(self._state)
        self.milliseconds.append(1000 * (time.process_time() - start) / steps)

    def flops(self) -> float:
        """Of a step's matrix products, as the compile report counts them in the program."""
        return sum(op.count * op.flops for op in hlo.Program(self._compiled.as_text()).ops())


def show(figures: dict[str, float], unit: str) -> None:
    """Prints the whole, and what each is less."""
    whole = figures[""]
    print(f"the whole step: {whole:.1f} {unit}")
    for name, figure in figures.items():
        if name:
            saved = whole - figure
            print(f"without {name}: {saved:.1f} {unit} less ({saved / whole:.0%})", flush=True)


def row_of(flops: dict[str, int], milliseconds: dict[str, float] | None = None) -> Row:
    """The whole step's, with what saves most; without `milliseconds`, of FLOPs alone."""
    costs, unit = (milliseconds, "the time") if milliseconds else (flops, "the FLOPs")
    dearest = min((name for name in costs if name), key=costs.__getitem__)
    note = f"without {dearest} {costs[dearest] / costs['']:.0%} of {unit}"
    seconds = milliseconds[""] / 1000 if milliseconds else math.nan
    return Row("a step of the default run", seconds, flop=flops[""], note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    rows.add_option(parser)
    options = parser.parse_args()
    environment.keep_freed_memory()  # as main.py does
    rounds = options.rounds
    setups = {name: set_up(changes) for name, changes in variants().items()}
    flops = {name: model_flops.model_flops(setup) for name, setup in setups.items()}
    show({name: each / 1e9 for name, each in flops.items()}, "GFLOP")
    if not rounds:
        rows.write([row_of(flops)], options)
        return
    programs = {name: Program(setup) for name, setup in setups.items()}
    for _ in range(rounds):
        for program in programs.values():
            program.run()
    medians = {name: statistics.median(p.milliseconds) for name, p in programs.items()}
    show(medians, "ms")
    rows.write([row_of(flops, medians)], options)


if __name__ == "__main__":
    main()
