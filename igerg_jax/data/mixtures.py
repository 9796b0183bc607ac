"""Mixtures: which datasets the examples of a step come from, and which objectives they train.

    config.data.mixtures = ConfigDict({
        "faces": {"objectives": ("image_emotion",), "datasets": {"fer2013": 3.0, "meld": 1.0}},
        "dialogues": {"objectives": (), "datasets": {"meld": 0.5, "daily_dialog": 0.5}},
    })

A mixture has a batch of its own for the objectives that it names. The mixture that names none has
the batch of all other objectives; without such a mixture, that batch is from config.data.dataset.
Evaluation always uses config.data.dataset.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epy
from ml_collections import ConfigDict

from igerg_jax.data import builders, emotion_balance, folders, length_buckets, order, store
from igerg_jax.data.length_buckets import Dealer, Dealt
from igerg_jax.data.patterns import occurrences, pattern
from igerg_jax.data.windows import Split
from igerg_jax.errors import UserError, check_known

with epy.lazy_imports():  # it imports JAX: seconds for every process that only prepares data
    from igerg_jax import objectives

if TYPE_CHECKING:
    from igerg_jax.data.prepared import Prepared
    from igerg_jax.objectives.base import Need, Objective

MAIN = ""  # the group of all objectives that no mixture names
# The keys of `config.data` that name splits of the dataset.
SPLIT_KEYS = ("train_split", "eval_split", "test_split", "extra_test_splits")


Order = Callable[[np.ndarray], np.ndarray]  # int64[n] places in an endless order -> window numbers


@dataclasses.dataclass(frozen=True)
class Stream:
    """The endless order of a group's examples: a pure function of the position.

    Attributes:
      splits: the train splits that examples are taken from.
      orders: of each split's own windows.
      pattern: int64[P]; position p takes an example of splits[pattern[p % P]]. Among any
        consecutive positions each split has its share to within two examples, and among P of them
        exactly.
      dealer: deals the positions to steps by length; None = each step has the next ones.
    """

    splits: Sequence[Split]
    orders: Sequence[Order]
    pattern: np.ndarray
    dealer: Dealer | None = None

    def at(self, positions_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns int64[B] split numbers and int64[B] window numbers at those positions."""
        source_B, ids_B = (np.empty_like(positions_B) for _ in range(2))
        for s, at_B, nth in occurrences(self.pattern, positions_B):
            source_B[at_B], ids_B[at_B] = s, self.orders[s](nth)
        return source_B, ids_B

    def step(self, step: int, batch_size: int) -> Dealt:
        """What a step holds; `batch_size` is that of the global batch."""
        if self.dealer is None:
            return Dealt(order.positions(step, batch_size), bucket=0)
        return self.dealer.step(step)


def labels(data: ConfigDict) -> dict[str, str]:
    """{dataset: `Info.labels`} of every dataset that `config.data` names."""
    return {name: builders.info(name).labels for name in folders.dataset_names(data)}


def streams(prepared: Prepared, config: ConfigDict) -> dict[str, Stream]:
    """Returns {group: stream}: MAIN first, then the mixtures that name objectives.

    Raises UserError for an empty or unknown split, or weights that make no pattern.
    """
    name, seed = config.data.train_split, config.seed

    def stream(splits: list[Split], seeds: list[int], pattern_P: np.ndarray) -> Stream:
        balance = config.data.balance_emotions
        pairs = zip(splits, seeds, strict=True)
        orders = [emotion_balance.order_of(split, seed, balance) for split, seed in pairs]
        return _dealt_by_length(Stream(splits, orders, pattern_P), config)

    groups = {MAIN: stream([nonempty_split(prepared, name)], [seed], np.zeros(1, np.int64))}
    for mixture_name, mixture in config.data.mixtures.items():
        pattern_P = _pattern_of(mixture_name, mixture)
        seeds = [_seed(seed, mixture_name, dataset) for dataset in mixture.datasets]
        splits = [nonempty_split(prepared.datasets[dataset], name) for dataset in mixture.datasets]
        groups[mixture_name if mixture.objectives else MAIN] = stream(splits, seeds, pattern_P)
    return groups


def _dealt_by_length(stream: Stream, config: ConfigDict) -> Stream:
    """The stream with a dealer, if the config has `length_buckets`."""
    if not config.data.length_buckets:
        return stream
    buckets = [length_buckets.numbers(split, config) for split in stream.splits]

    def bucket_at(positions: np.ndarray) -> np.ndarray:
        source, ids = stream.at(positions)
        found = np.empty(len(positions), np.int8)
        for s, of_split in enumerate(buckets):
            found[source == s] = of_split[ids[source == s]]
        return found

    windows = sum(split.num_windows for split in stream.splits)
    dealer = Dealer(bucket_at, windows, config.train.batch_size)
    return dataclasses.replace(stream, dealer=dealer)


def _pattern_of(name: str, mixture: ConfigDict) -> np.ndarray:
    """`pattern` of a mixture's weights. Raises UserError for weights that make none."""
    try:
        return pattern(list(mixture.datasets.values()))
    except ValueError as error:
        raise UserError(f"config.data.mixtures.{name}: {error}") from error


def _seed(seed: int, *names: str) -> int:
    numbers = (zlib.crc32(name.encode()) for name in names)
    return int(order.hash_uint64(seed, *numbers) >> np.uint64(1))


def nonempty_split(prepared: Prepared, name: str) -> Split:
    """Returns a split that has windows. Raises UserError for others."""
    split = prepared.split(name)
    if split.num_windows == 0:
        raise UserError(f"split '{name}' of '{prepared.dataset}' has no response turns")
    return split


def check_start(config: ConfigDict) -> None:
    """Checks what can be checked before anything is prepared.

    Raises:
      UserError: an unknown dataset, mixtures that `check_names` refuses, an objective that needs
        images of a dataset that never has any, or one that needs dialogues although
        data.context_turns=0.
    """
    check_names(config)
    for objective, dataset in _served(config):
        if objectives.base.DIALOGUES in objective.needs and not config.data.context_turns:
            raise UserError(
                f"data.context_turns=0 leaves objective '{objective.name}' no turn to respond to: "
                f"raise it, or set config.objectives.{objective.name}.weight=0"
            )
        layout = builders.layout(dataset)
        without_images = layout.images == "no" and not layout.feature_dim
        if objectives.base.IMAGES in objective.needs and without_images:
            raise _lacks(objective, dataset, config, objectives.base.IMAGES)


def check_splits(prepared: Prepared, config: ConfigDict, keys: Sequence[str] = SPLIT_KEYS) -> None:
    """Raises UserError unless the splits that `keys` of config.data name exist and fit the config,
    and those that are evaluated have an example."""
    data = config.data
    for key in keys:
        for name in [data[key]] if isinstance(data[key], str) else data[key]:
            prepared.check_split(name, key)
            if key != "train_split":
                nonempty_split(prepared, name)
            check_features(prepared.split(name), config)
    reported = {"valid": data.eval_split, "test": data.test_split}
    for name in data.extra_test_splits if "extra_test_splits" in keys else ():
        if reported.get(name, name) != name:
            raise UserError(
                f"config.data.extra_test_splits names '{name}', under which summary.json reports "
                f"split '{reported[name]}': leave it out, or evaluate it as config.data.test_split"
            )


def check(prepared: Prepared, config: ConfigDict) -> None:
    """Checks the prepared data against the config, before anything is compiled.

    Raises:
      UserError: a split to evaluate is missing, or a dataset to train on has other features than
        the model takes, or lacks something that an objective needs.
    """
    check_splits(prepared, config)
    for objective, dataset in _served(config):
        split = prepared.datasets[dataset].split(config.data.train_split)
        check_features(split, config)
        counts = prepared.datasets[dataset].summary["splits"][split.name]
        counts = counts | {"dialogues": 0 if split.standalone else split.num_windows}
        for need in objective.needs:
            if not counts[need.count]:
                raise _lacks(objective, dataset, config, need)


def check_features(split: Split, config: ConfigDict) -> None:
    """Raises UserError unless a split has pixels or vectors, whichever the config says it has."""
    wanted, width = config.data.feature_dim, split.turns.feature_dim
    if wanted != width and (split.turns.image != store.NO_IMAGE).any():
        images = "images, not precomputed features: set it to 0"
        vectors = (
            f"vectors of {width} numbers: set config.data.feature_dim={width} and "
            "config.model.vision.kind='features'"
        )
        raise UserError(
            f"config.data.feature_dim={wanted}, but split '{split.name}' of the data has "
            f"{vectors if width else images}"
        )


def _lacks(objective: Objective, dataset: str, config: ConfigDict, need: Need) -> UserError:
    return UserError(
        f"objective '{objective.name}' needs {need.words}, but split '{config.data.train_split}' "
        f"of '{dataset}' has none: set config.objectives.{objective.name}.weight=0, or train it "
        "on another dataset (config.data.mixtures)"
    )


def _served(config: ConfigDict) -> Iterator[tuple[Objective, str]]:
    """(objective, dataset) for each dataset that an objective with a weight is trained on."""
    mixtures = config.data.mixtures.values()
    datasets_of = {name: mixture.datasets for mixture in mixtures for name in mixture.objectives}
    main = next((m.datasets for m in mixtures if not m.objectives), [config.data.dataset])
    for name in objectives.active(config):
        for dataset in datasets_of.get(name, main):
            yield objectives.OBJECTIVES[name], dataset


def check_names(config: ConfigDict) -> None:
    """Raises UserError for mixtures that contradict each other, name unknown objectives, or have
    weights that make no `pattern`."""
    mixture_of: dict[str, str] = {}
    for name, mixture in config.data.mixtures.items():
        if set(mixture) != {"objectives", "datasets"} or not mixture.datasets:
            raise UserError(
                f"config.data.mixtures.{name} needs 'objectives' and 'datasets' and nothing else"
            )
        _pattern_of(name, mixture)
        for objective in mixture.objectives or (MAIN,):
            if objective:
                what = f"config.data.mixtures.{name}: '{objective}' is not an objective"
                check_known(objective, config.objectives, what)
            if objective in mixture_of:
                what = f"objective '{objective}'" if objective else "those that no mixture names"
                raise UserError(
                    f"config.data.mixtures: both '{mixture_of[objective]}' and '{name}' serve "
                    f"{what}"
                )
            mixture_of[objective] = name
