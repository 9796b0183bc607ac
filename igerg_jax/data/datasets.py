"""The dataset that a config names, prepared and opened."""

from __future__ import annotations

from typing import Any

from igerg_jax.run.workdirs import parse

SYNTHETIC = "synthetic"  # config.data.dataset: random batches, no data and no TensorFlow


def open_prepared(config: Any) -> Any | None:
    """The prepared dataset, or None for synthetic batches. Imports TensorFlow only for data."""
    if config.data.dataset == SYNTHETIC:
        return None
    from igerg_jax.data import bucket
    from igerg_jax.data import prepare as data

    return data.prepare(bucket.fetched(config, parse(config.data.data_dir)))
