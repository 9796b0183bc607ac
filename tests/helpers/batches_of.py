"""Which rows and windows the tests of the input pipeline ask for."""

import numpy as np

from igerg_jax.data import pipeline


def host_rows(batch_size: int, host: int = 0, hosts: int = 1) -> np.ndarray:
    """A host's rows of the global batch, if hosts hold them one after another."""
    return np.split(np.arange(batch_size), hosts)[host]


def first_windows(prepared, split, config, rows_b):
    """The batches that evaluation reads: a split's first config.evaluate.examples windows."""
    total = prepared.split(split).num_windows
    ids = np.arange(min(config.evaluate.examples or total, total))
    return pipeline.window_batches(prepared, split, ids, config, rows_b)
