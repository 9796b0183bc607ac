"""Mixtures: which datasets the examples of a step come from, and which objectives they train.

    config.data.mixtures = ConfigDict({
        "faces": {"objectives": ("image_emotion",), "datasets": {"fer2013": 3.0, "chitchat": 1.0}},
        "talk": {"objectives": (), "datasets": {"meld": 0.5, "daily_dialog": 0.5}},
    })

A mixture has a batch of its own for the objectives that it names. The mixture that names none has
the batch of all other objectives; without such a mixture, that batch is from config.data.dataset.
Evaluation always uses config.data.dataset.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epy
from ml_collections import ConfigDict

from igerg_jax.batch import mixed_groups
from igerg_jax.data import builders, order
from igerg_jax.data.splits import Split
from igerg_jax.errors import UserError

with epy.lazy_imports():  # JAX: seconds for each process that prepares data and checks nothing
    from igerg_jax import objectives

if TYPE_CHECKING:
    from igerg_jax.data.prepared import Prepared
    from igerg_jax.objectives.base import Need, Objective

MAIN = ""  # the group of all objectives that no mixture names
_LONGEST = 10_000  # period of the order in which datasets alternate


@dataclasses.dataclass(frozen=True)
class Stream:
    """The endless order of a group's examples: a pure function of the position.

    Attributes:
      splits: the train splits that examples are taken from.
      seeds: of each split's own order.
      pattern: int64[P]; position p takes an example of splits[pattern[p % P]]. Among any
        consecutive positions each split has its share to within two examples, and among P of them
        exactly.
    """

    splits: Sequence[Split]
    seeds: Sequence[int]
    pattern: np.ndarray

    def at(self, positions_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns int64[B] split numbers and int64[B] window numbers at those positions."""
        rounds_B, place_B = np.divmod(positions_B, len(self.pattern))
        source_B = self.pattern[place_B]
        ids_B = np.empty_like(source_B)
        for s, split in enumerate(self.splits):
            mine = self.pattern == s
            here_B = source_B == s
            if here_B.any():
                # The number of this split's examples before each position.
                before_B = rounds_B[here_B] * mine.sum() + (np.cumsum(mine) - mine)[place_B[here_B]]
                ids_B[here_B] = order.examples_at(self.seeds[s], before_B, split.num_windows)
        return source_B, ids_B


def pattern(weights: Sequence[float]) -> np.ndarray:
    """Returns int64[P]: the shortest sequence in which each number i has its weight's share.

    Among the numbers that lag sufficiently behind their share, the one with the earliest deadline
    comes next (Tijdeman, "The chairman assignment problem", 1980). So with k weights, the first n
    entries contain n times each share to within 1 - 1 / (2k - 2), and any n consecutive entries of
    the repeated sequence to within twice that. (Choosing the number that lags most has no such
    bound: with 30 weights the deviation exceeds two.)

    Raises:
      ValueError: weights that are not positive, or whose ratio needs too long a sequence.
    """
    numbers = (isinstance(w, int | float) and w > 0 and math.isfinite(w) for w in weights)
    if not weights or not all(numbers):
        raise ValueError("weights must be positive numbers")
    fractions = [Fraction(w).limit_denominator(_LONGEST) for w in weights]
    scale = math.lcm(*(f.denominator for f in fractions))
    counts = [int(f * scale) for f in fractions]  # Python integers: no overflow
    if not all(counts):
        raise ValueError(f"weights must be at least {1 / _LONGEST}")
    divisor = math.gcd(*counts)
    length = sum(counts) // divisor
    if length > _LONGEST:
        raise ValueError(f"the ratio needs {length} examples to be exact; round the weights")
    counts = np.array([count // divisor for count in counts], np.int64)
    out, taken = np.empty(length, np.int64), np.zeros(len(counts), np.int64)
    unit = max(2 * len(counts) - 2, 1)  # exact arithmetic: lags in units of 1 / (unit * length)
    for place in range(length):
        lag = (counts * (place + 1) - taken * length) * unit
        spare = ((unit - 1) * length - lag) / counts  # places until its deadline
        chosen = int(np.argmin(np.where(lag >= length, spare, np.inf)))
        out[place] = chosen
        taken[chosen] += 1
    return out


def streams(prepared: Prepared, config: ConfigDict) -> dict[str, Stream]:
    """Returns {group: stream}: MAIN first, then the mixtures that name objectives.

    Raises:
      UserError: an empty or unknown split, or invalid weights.
    """
    data = config.data
    found = {MAIN: Stream([_split(prepared, data)], [config.seed], np.zeros(1, np.int64))}
    for name, mixture in data.mixtures.items():
        try:
            turns = pattern(list(mixture.datasets.values()))
        except ValueError as error:
            raise UserError(f"config.data.mixtures.{name}: {error}") from error
        datasets = list(mixture.datasets)
        seeds = [_seed(config.seed, name, dataset) for dataset in datasets]
        splits = [_split(prepared.datasets[dataset], data) for dataset in datasets]
        found[name if mixture.objectives else MAIN] = Stream(splits, seeds, turns)
    return found


def _seed(*parts: Any) -> int:
    numbers = (p if isinstance(p, int) else zlib.crc32(p.encode()) for p in parts)
    return int(order.hash_uint64(*numbers) >> np.uint64(1))


def _split(prepared: Prepared, data: ConfigDict) -> Split:
    split = prepared.split(data.train_split)
    if split.num_windows == 0:
        raise UserError(
            f"split '{split.name}' of '{prepared.dataset}' has no turn that answers another"
        )
    return split


def check_start(config: ConfigDict) -> None:
    """Refuses what can be told before anything is prepared.

    Raises:
      UserError: an unknown dataset, mixtures as in `check_names`, or an objective that needs
        images of a dataset that never has any.
    """
    check_names(config)
    for objective, dataset in _served(config):
        layout = builders.layout(dataset)
        without_images = layout.images == "no" and not layout.feature_dim
        if objectives.base.IMAGES in objective.needs and without_images:
            _lacks(objective, dataset, config, objectives.base.IMAGES)


def check(prepared: Prepared, config: ConfigDict) -> None:
    """Refuses, before anything is compiled, what the prepared data cannot serve.

    Raises:
      UserError: a dataset lacks what an objective that is trained on it needs, or there is no
        split to evaluate.
    """
    splits = prepared.summary["splits"]
    wanted = [(key, config.data[key]) for key in ("train_split", "eval_split", "test_split")]
    wanted += [("extra_test_splits", name) for name in config.data.extra_test_splits]
    for key, name in wanted:
        if name not in splits:
            known = ", ".join(splits)
            raise UserError(
                f"dataset '{prepared.dataset}' has no split '{name}' (config.data.{key}); there "
                f"are: {known}"
            )
    for objective, dataset in _served(config):
        opened, split = prepared.datasets[dataset], config.data.train_split
        opened.split(split)
        counts = opened.summary["splits"][split]
        counts = counts | {"dialogues": 0 if counts["standalone"] else counts["windows"]}
        for need in objective.needs:
            if not counts[need.count]:
                _lacks(objective, dataset, config, need)


def _lacks(objective: Objective, dataset: str, config: ConfigDict, need: Need) -> None:
    raise UserError(
        f"objective '{objective.name}' needs {need.words}, but split '{config.data.train_split}' "
        f"of '{dataset}' has none: set config.objectives.{objective.name}.weight=0, or train it "
        "on another dataset (config.data.mixtures)"
    )


def _served(config: ConfigDict) -> Iterator[tuple[Objective, str]]:
    """(objective, dataset) for each dataset that an objective with a weight is trained on."""
    data = config.data
    special = {o: m for m in mixed_groups(data) for o in data.mixtures[m].objectives}
    mains = [m.datasets for m in data.mixtures.values() if not m.objectives]
    for name in objectives.active(config):
        if name in special:
            datasets = list(data.mixtures[special[name]].datasets)
        else:
            datasets = list(mains[0]) if mains else [data.dataset]
        for dataset in datasets:
            yield objectives.OBJECTIVES[name], dataset


def check_names(config: ConfigDict) -> None:
    """Raises UserError for mixtures that contradict each other or name what is not there."""
    taken: dict[str, str] = {}
    for name, mixture in config.data.mixtures.items():
        if set(mixture) != {"objectives", "datasets"} or not mixture.datasets:
            raise UserError(
                f"config.data.mixtures.{name} needs 'objectives' and 'datasets' and nothing else"
            )
        for objective in mixture.objectives or (MAIN,):
            if objective and objective not in config.objectives:
                known = ", ".join(config.objectives)
                raise UserError(
                    f"config.data.mixtures.{name}: '{objective}' is no objective; there are: "
                    f"{known}"
                )
            if objective in taken:
                what = f"objective '{objective}'" if objective else "what no other names"
                raise UserError(
                    f"config.data.mixtures: both '{taken[objective]}' and '{name}' serve {what}"
                )
            taken[objective] = name
