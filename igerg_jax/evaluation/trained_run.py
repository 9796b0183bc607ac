"""Opens a trained run from its checkpoint: where everything that uses a trained model starts.

No optimizer is built, and the optimizer's state in the checkpoint is not read.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from igerg_jax import checks
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.data import datasets, mixtures, tokenizers
from igerg_jax.errors import UserError
from igerg_jax.parallel import sharding
from igerg_jax.run import checkpoint, workdirs
from igerg_jax.setup import Setup, set_up


class Run(NamedTuple):
    """A checkpoint and what it takes to use it."""

    folder: epath.Path  # of the checkpoint
    config: ConfigDict  # as it was trained, but for the mesh and the batch sizes
    setup: Setup
    params: Any  # on the setup's mesh
    tokenizer: Any | None  # None: it was trained on synthetic batches


def open_run(path: epath.PathLike, batch_size: int, devices: Any | None = None) -> Run:
    """Opens the checkpoint under `path`, its parameters replicated on every device.

    Args:
      path: as `checkpoint.find` takes it.
      batch_size: examples per call, over all devices.
      devices: that examples are spread over; default all.

    Raises:
      UserError: no checkpoint, no tokenizer, or a batch that does not divide over the devices.
    """
    folder = checkpoint.find(path)
    config = stored_config(folder, batch_size)
    tokenizer, digest = None, None
    vocab_size, special = config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS
    if checkpoint.read_run(folder)["tokenizer_digest"] not in ("", datasets.SYNTHETIC):
        tokenizer = tokenizer_of(config, folder)
        vocab_size, special, digest = tokenizer.vocab_size, tokenizer.special, tokenizer.digest
    setup = set_up(config, vocab_size, special, devices)
    sharding.check_batch(batch_size, 1, setup.mesh, "batch_size")
    params, _ = checkpoint.load_params(folder, setup, tokenizer_digest=digest)
    return Run(folder, config, setup, params, tokenizer)


def stored_config(folder: epath.Path, batch_size: int | None = None) -> ConfigDict:
    """The config in a checkpoint's folder, for use on every device, parameters replicated.

    Args:
      batch_size: examples per call, over all devices; None = the config's evaluate.batch_size.
    """
    config = ConfigDict(checkpoint.read_run(folder)["config"])
    batch_size = batch_size or config.evaluate.batch_size
    config.init_from = ""
    config.mesh = ConfigDict(dict(dcn=1, data=-1, fsdp=1, tensor=1))
    config.train.update(batch_size=batch_size, accumulate_steps=1)
    config.evaluate.batch_size = batch_size
    return config


def load_with_data(
    config: Any, path: epath.PathLike, split_keys: Sequence[str] = mixtures.SPLIT_KEYS
) -> tuple[Setup, Any, Any]:
    """(setup, prepared dataset, parameters) to evaluate the checkpoint under `path` with.

    Args:
      split_keys: of `config.data`, of the splits that will be used.

    Raises:
      UserError: no checkpoint there, one of another model or tokenizer, or no such data.
    """
    folder = checkpoint.find(path)
    dataset = datasets.open_dataset(config)
    checks.check_evaluation_data(dataset, config, split_keys)
    setup, params = load(config, folder, dataset.tokenizer)
    return setup, dataset, params


def load(config: Any, folder: epath.Path, tokenizer: Any) -> tuple[Setup, Any]:
    """(setup, parameters) of one checkpoint's folder; reports on stderr what was taken.

    Raises:
      UserError: it is of another model or tokenizer.
    """
    setup = set_up(config, tokenizer.vocab_size, tokenizer.special)
    params, loaded = checkpoint.load_params(folder, setup, tokenizer_digest=tokenizer.digest)
    if jax.process_index() == 0:
        print(loaded.describe(), file=sys.stderr)
        trained_with = checkpoint.read_run(folder)["config"]
        if different := workdirs.input_differences(trained_with, workdirs.as_json(config)):
            print(
                f"note: it was trained on other inputs: {workdirs.listed(different)}",
                file=sys.stderr,
            )
    return setup, params


def tokenizer_of(config: Any, folder: epath.Path) -> Any:
    """The tokenizer kept with a checkpoint; else the one of the config's dataset.

    Args:
      folder: as `checkpoint.find` returns it.

    Raises:
      UserError: there is neither.
    """
    kept = checkpoint.tokenizer_file(folder)
    if kept.exists():
        return tokenizers.read(kept)
    dataset = datasets.open_dataset(config)
    if not dataset.split_names:
        raise UserError(
            f"data.dataset is '{config.data.dataset}': there are no words to respond with"
        )
    return dataset.tokenizer
