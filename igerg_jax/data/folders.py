"""Where prepared data is stored, and the lock that lets one process at a time write there.

<data_dir>/prepared/<dataset>/<version>/turns/        words, labels, images
<data_dir>/prepared/<dataset>/<version>/<digest>/     the words as ids of one tokenizer
<data_dir>/prepared/tokenizers/                       tokenizers trained here
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator

import filelock
from ml_collections import ConfigDict

from igerg_jax import storage
from igerg_jax.data import builders, store
from igerg_jax.errors import UserError, check_known


def dataset_names(data: ConfigDict) -> list[str]:
    """The datasets that config.data names: `dataset` first, then those of the mixtures."""
    mixed = [name for mixture in data.mixtures.values() for name in mixture.datasets]
    return list(dict.fromkeys([data.dataset, *mixed]))


def root(data: ConfigDict) -> pathlib.Path:
    """The folder of all prepared data. Raises UserError if config.data.data_dir is in a bucket."""
    if storage.is_bucket(data.data_dir):
        raise UserError(
            f"config.data.data_dir '{data.data_dir}': data are prepared on a local disk, then "
            "copied to a bucket (gcloud storage rsync -r)"
        )
    return storage.local_path(data.data_dir) / "prepared"


def of_dataset(data: ConfigDict, dataset: str) -> pathlib.Path:
    """A dataset's folder, keyed by version, format, where its raw files and labels are, and the
    size that its images are scaled down to."""
    version = f"{builders.version(dataset)}-{store.FORMAT}"
    dataset_definition, _ = builders.find(dataset)
    manual_dir = data.manual_dir if dataset_definition.reads_manual_dir else ""
    sources = [manual_dir, data.labels.path]
    if any(sources):
        places = [str(storage.local_path(s).resolve()) if s else "" for s in sources]
        if data.labels.path:
            places.append(str(data.labels.min_confidence))
        version += f"-{hashlib.sha256(json.dumps(places).encode()).hexdigest()[:8]}"
    if data.short_side:
        version += f"-{data.short_side}px"
    return root(data) / dataset / version


def of_tokenizers(data: ConfigDict) -> pathlib.Path:
    """The folder of the tokenizers that were trained here."""
    return root(data) / "tokenizers"


def check_split(
    dataset: str, split: str, known: Iterable[str], base: pathlib.Path, key: str = ""
) -> None:
    """Raises UserError unless `split` is one of those `known` in `base`, the dataset's folder.

    Args:
      key: the one of config.data that names the split.
    """
    named = f"'{split}' (config.data.{key})" if key else f"'{split}'"
    try:
        check_known(split, known, f"dataset '{dataset}' has no split {named}")
    except UserError as error:
        raise UserError(
            f"{error}. If its files arrived later, remove '{base}' to prepare them"
        ) from None


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Creates `folder`, and lets one process of this machine at a time into the block.

    A process that is killed releases its lock. Raises UserError if `folder` cannot be written to.
    """
    lock = filelock.FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"cannot write to '{folder}' (config.data.data_dir): {error.strerror}"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_if_missing(folder: pathlib.Path) -> Iterator[bool]:
    """Yields whether `folder` is missing; if so, its parent is locked meanwhile.

    Raises UserError if something else has its name, or that of its unfinished folder.
    """
    if folder.is_dir():
        yield False
        return
    with locked(folder.parent):
        for path in (folder, folder.with_name(f"{folder.name}.partial")):
            if os.path.lexists(path) and not path.is_dir():
                raise UserError(f"'{path}' is not a folder: remove it, then repeat the command")
        yield not folder.is_dir()  # another process may have written it just now
