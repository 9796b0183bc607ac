"""What a step of the default run spends on each objective: the time that leaving it out saves.

    python -m benchmarks.objective_cost [--rounds=N]

Programs of `configs/pretrain.py` are timed in turn on random batches: the whole step, without each
objective, and without the contrast and the consistency of emotional_response. Printed are
milliseconds of processor time, which other programs on the machine disturb less than they do the
clock: the median of the rounds. Objectives share passes, so what each saves does not add up to the
whole.
"""

import argparse
import statistics
import sys
import time

import jax

from configs import pretrain
from igerg_jax.batch import SENTENCEPIECE_IDS, synthetic
from igerg_jax.parallel import sharding
from igerg_jax.training import train_state, train_step

STEPS = 5  # in a round


def variants() -> dict[str, dict[str, float]]:
    """{name: {key: value}} of what differs from the default run."""
    without = [f"{name}.weight" for name in pretrain.get_config().objectives]
    without += [f"emotional_response.{part}_weight" for part in ("contrast", "consistency")]
    named = {key.removesuffix("weight").rstrip("._"): key for key in without}
    return {"all": {}} | {name: {f"objectives.{key}": 0.0} for name, key in named.items()}


class Program:
    """A compiled step, its state and its batch."""

    def __init__(self, changes: dict[str, float]):
        config = pretrain.get_config()
        config.data.dataset = "synthetic"
        config.update_from_flattened_dict(changes)
        setup = train_state.set_up_training(
            config, config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS, jax.devices()[:1]
        )
        self._compiled = train_step.lower_step(setup).compile()
        host = synthetic(setup.spec, SENTENCEPIECE_IDS, setup.model.vocab_size, seed=0)
        self._batch = sharding.to_devices(host, sharding.batch_sharding(setup.mesh))
        self._state = train_state.init_state(setup)
        self.milliseconds: list[float] = []

    def run(self) -> None:
        """`STEPS` steps."""
        start = time.process_time()
        for _ in range(STEPS):
            self._state, _ = self._compiled(self._state, self._batch)
        jax.block_until_ready(self._state)
        self.milliseconds.append(1000 * (time.process_time() - start) / STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    programs = {}
    for name, changes in variants().items():
        programs[name] = Program(changes)
        print(f"compiled: {name}", file=sys.stderr, flush=True)
    for _ in range(options.rounds):
        for program in programs.values():
            program.run()
    taken = {name: statistics.median(p.milliseconds) for name, p in programs.items()}
    whole = taken.pop("all")
    print(f"all: {whole:.1f} ms")
    for name, milliseconds in taken.items():
        saved = whole - milliseconds
        print(f"without {name}: {milliseconds:.1f} ms, {saved:.1f} less ({saved / whole:.0%})")


if __name__ == "__main__":
    main()
