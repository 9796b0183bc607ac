"""Random batches as a dataset: for throughput, and for trying a config without data."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from igerg_jax import batch as batches
from igerg_jax.batch import SENTENCEPIECE_IDS, BatchSpec, SpecialIds

NAME = "synthetic"  # config.data.dataset


@dataclasses.dataclass(frozen=True)
class SyntheticVocabulary:
    """Ids without words: `igerg_jax.data.tokenizers.Vocabulary`."""

    vocab_size: int
    special: SpecialIds = SENTENCEPIECE_IDS
    digest: str = NAME

    def save(self, path: epath.PathLike) -> None:
        """Writes nothing: there are no words to decode."""


class SyntheticDataset:
    """Batches of `igerg_jax.batch.synthetic`: `igerg_jax.data.datasets.Dataset`."""

    split_names = ()

    def __init__(self, data: ConfigDict):
        """Takes `config.data`, whose tokenizer.vocab_size is read."""
        self.tokenizer = SyntheticVocabulary(data.tokenizer.vocab_size)

    def describe(self, config: ConfigDict) -> str:
        del config
        return "random batches (config.data.dataset=synthetic)"

    def train_batches(
        self, config: ConfigDict, start_step: int, rows_b: np.ndarray
    ) -> Iterator[dict[str, np.ndarray]]:
        spec = BatchSpec.of(config.data, config.train.batch_size)
        ids, size = self.tokenizer.special, self.tokenizer.vocab_size

        def make(step: int) -> dict[str, np.ndarray]:
            global_batch = batches.synthetic(spec, ids, size, seed=step)
            return {name: values[rows_b] for name, values in global_batch.items()}

        return map(make, itertools.count(start_step))
