"""The dataset that a config names, opened: what training and evaluation start from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.data import bucket, prepare, synthetic
from igerg_jax.data.tokenizers import Vocabulary
from igerg_jax.run import workdirs

SYNTHETIC = synthetic.NAME  # config.data.dataset: random batches, no data and no TensorFlow


class Dataset(Protocol):
    """What training needs of a dataset: `Prepared` and `SyntheticDataset` have it.

    Attributes:
      tokenizer: its vocabulary.
      split_names: the splits that can be evaluated; () for random batches, which also have no
        text to decode. Others are `Prepared`, which the evaluation works with.
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


def open_dataset(config: ConfigDict) -> Dataset:
    """Opens config.data.dataset; prepares what is not prepared yet, or copies it from a bucket.

    Raises UserError as `prepare.prepare` and `bucket.fetched`.
    """
    if config.data.dataset == SYNTHETIC:
        return synthetic.SyntheticDataset(config.data)
    return prepare.prepare(bucket.fetched(config, workdirs.parse(config.data.data_dir)))
