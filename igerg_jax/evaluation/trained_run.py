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
from igerg_jax.data import datasets, tokenizers
from igerg_jax.errors import UserError
from igerg_jax.parallel import sharding
from igerg_jax.run import checkpoint, recorded_config, workdirs
from igerg_jax.setup import Setup, set_up


class Run(NamedTuple):
    """A checkpoint and what it takes to use it."""

    folder: epath.Path  # of the checkpoint
    config: ConfigDict
    setup: Setup
    params: Any  # on the setup's mesh
    tokenizer: Any | None  # None: it was trained on synthetic batches
    dataset: Any  # a `Prepared`; None: opened without data


def open_run(
    path: epath.PathLike,
    config: Any | None = None,
    split_keys: Sequence[str] = (),
    batch_size: int | None = None,
    devices: Any | None = None,
) -> Run:
    """Opens the checkpoint under `path`.

    Args:
      path: as `checkpoint.find` takes it.
      config: to use it with, as given on a command line; stderr then says which parameters were
        loaded. None = the one that it was trained with (`stored_config`).
      split_keys: keys of `config.data` that name the splits to be used; () = open no data.
      batch_size: without `config`: examples per call, over all devices.
      devices: to spread the examples over; default all.

    Raises:
      UserError: there is no checkpoint, or only parts of a model, its model or tokenizer is not the
        config's, the tokenizer or the data are missing, or the batch does not divide over the
        devices.
    """
    folder = checkpoint.find(path)
    _check_whole(folder)
    as_trained, dataset, tokenizer = config is None, None, None
    if as_trained:
        config = stored_config(folder, batch_size)
    if split_keys:
        dataset = datasets.open_dataset(config)
        checks.check_evaluation_data(dataset, config, split_keys)
        tokenizer = dataset.tokenizer
    elif not as_trained or has_words(folder):
        tokenizer = tokenizer_of(config, folder)
    ids = tokenizer or datasets.SyntheticVocabulary(config.data.tokenizer.vocab_size)
    setup = set_up(config, ids.vocab_size, ids.special, devices)
    if as_trained:
        sharding.check_batch(config.evaluate.batch_size, 1, setup.mesh, "batch_size")
    digest = None if tokenizer is None else tokenizer.digest
    params, loaded = checkpoint.load_params(folder, setup, tokenizer_digest=digest)
    if not as_trained and jax.process_index() == 0:
        _report(loaded, folder, config)
    return Run(folder, config, setup, params, tokenizer, dataset)


def _check_whole(folder: epath.Path) -> None:
    """Raises UserError if the folder was exported with --parts."""
    if parts := checkpoint.read_run(folder).get("parts"):
        raise UserError(
            f"'{folder}' is not a whole model: it has only {', '.join(parts)}, for training to "
            f"start from (--config.init_from, with init_parts={tuple(parts)})"
        )


def has_words(folder: epath.Path) -> bool:
    """Whether the checkpoint in a folder was trained on text, and not on synthetic batches."""
    return checkpoint.read_run(folder)["tokenizer_digest"] not in ("", datasets.SYNTHETIC)


def _report(loaded: checkpoint.Loaded, folder: epath.Path, config: Any) -> None:
    print(loaded.describe(), file=sys.stderr)
    recorded = checkpoint.read_run(folder)["config"]
    trained_with = workdirs.of_this_version(recorded, folder, say=False)
    if different := workdirs.input_differences(trained_with, workdirs.as_json(config)):
        print(
            f"note: it was trained on other inputs: {workdirs.listed(different)}", file=sys.stderr
        )


def stored_config(folder: epath.Path, batch_size: int | None = None) -> ConfigDict:
    """The config in a checkpoint's folder, for use on every device, parameters replicated.

    Args:
      batch_size: examples per call, over all devices; None = the config's evaluate.batch_size.
    """
    config = recorded_config.for_this_version(checkpoint.read_run(folder)["config"], folder)
    batch_size = batch_size or config.evaluate.batch_size
    config.init_from = ""
    config.mesh = ConfigDict(dict(dcn=1, data=-1, fsdp=1, tensor=1))
    config.train.update(batch_size=batch_size, accumulate_steps=1)
    config.evaluate.batch_size = batch_size
    return config


def tokenizer_of(config: Any, folder: epath.Path) -> Any:
    """The tokenizer stored with a checkpoint; without one, that of the config's dataset.

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
