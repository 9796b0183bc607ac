"""The dataset that a config names, opened: what training and evaluation start from."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from igerg_jax import batch, storage
from igerg_jax.batch import SENTENCEPIECE_IDS, BatchSpec, SpecialIds
from igerg_jax.data import bucket, prepare
from igerg_jax.data.tokenizers import Vocabulary

SYNTHETIC = "synthetic"  # config.data.dataset: random batches, no data and no TensorFlow


class Dataset(Protocol):
    """What training needs of a dataset: `Prepared` and `SyntheticDataset` have it.

    Attributes:
      tokenizer: its vocabulary.
      split_names: the splits that can be evaluated; () for random batches, which also have no
        text to decode. Evaluation requires a `Prepared`.
    """

    tokenizer: Vocabulary
    split_names: tuple[str, ...]

    def train_batches(
        self, config: ConfigDict, start_step: int, rows_b: np.ndarray
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields rows `rows_b` of the global batches of start_step, start_step + 1, ... forever.

        A step's batch is a function of the config and the step; each step costs the same to start
        from. Arrays follow the contract of `igerg_jax.batch`.
        """

    def describe(self, config: ConfigDict) -> str:
        """One line for the start of a run."""


@dataclasses.dataclass(frozen=True)
class SyntheticVocabulary:
    """Ids without words."""

    vocab_size: int
    special: SpecialIds = SENTENCEPIECE_IDS
    digest: str = SYNTHETIC

    def save(self, path: epath.PathLike) -> None:
        """Writes nothing: there are no words to decode."""


class SyntheticDataset:
    """Batches of `igerg_jax.batch.synthetic`: for throughput, and to try a config without data.

    With `data.length_buckets`, steps have each size in turn.
    """

    split_names = ()

    def __init__(self, data: ConfigDict):
        self.tokenizer = SyntheticVocabulary(data.tokenizer.vocab_size)

    def describe(self, config: ConfigDict) -> str:
        return f"random batches (config.data.dataset={config.data.dataset})"

    def train_batches(
        self, config: ConfigDict, start_step: int, rows_b: np.ndarray
    ) -> Iterator[dict[str, np.ndarray]]:
        specs = BatchSpec.by_length(config.data, config.train.batch_size)
        for step in itertools.count(start_step):
            spec = specs[step % len(specs)]
            vocabulary = self.tokenizer
            arrays = batch.synthetic(spec, vocabulary.special, vocabulary.vocab_size, seed=step)
            yield {name: values[rows_b] for name, values in arrays.items()}


def open_dataset(config: ConfigDict) -> Dataset:
    """Opens config.data.dataset; prepares what is not prepared yet, or copies it from a bucket.

    Raises UserError as `prepare.prepare` and `bucket.fetched`.
    """
    if config.data.dataset == SYNTHETIC:
        return SyntheticDataset(config.data)
    return prepare.prepare(bucket.fetched(config, storage.parse_path(config.data.data_dir)))
