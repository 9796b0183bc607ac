"""A data_dir in a bucket: copies datasets that were prepared elsewhere to the local disk.

Training reads turns and images at random from memory-mapped files and ArrayRecord, which support
local files only. So a host copies the datasets that its config names, once. If they do not fit on
its disk, mount the bucket (Cloud Storage FUSE, Filestore) and pass the mounted folder instead.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile

from etils import epath
from ml_collections import ConfigDict

from igerg_jax import manifests, storage
from igerg_jax.data import folders, parts
from igerg_jax.errors import UserError

_COPIES = 16  # files at once


def fetched(config: ConfigDict, place: epath.Path) -> ConfigDict:
    """Returns `config`, or a copy with a local data_dir if its data_dir, `place`, is in a bucket.

    Several processes of a machine may call it at once: the first complete copy is kept.
    Raises UserError if the bucket does not have the datasets prepared.
    """
    if not storage.is_bucket(place):
        return config
    key = hashlib.sha256(os.fspath(place).encode()).hexdigest()[:12]
    local = storage.local_path(config.data.bucket_copies_dir) / key
    config = config.copy_and_resolve_references()
    config.data.data_dir = str(local)
    tokenizers = place / "prepared" / "tokenizers"
    if tokenizers.exists():
        here = folders.of_tokenizers(config.data)
        files = [file for file in tokenizers.iterdir() if not (here / file.name).exists()]
        _copy([(file, here / file.name) for file in files], "tokenizers")
    for name in folders.dataset_names(config.data):
        base = folders.of_dataset(config.data, name)
        _fetch(place / base.relative_to(local).as_posix(), base, name, place)
    return config


def _fetch(source: epath.Path, base: pathlib.Path, dataset: str, place: epath.Path) -> None:
    """Copies the complete folders of a prepared dataset (turns, and tokens of each tokenizer) that
    are not on the local disk yet."""
    if not (source / "turns" / manifests.FILE).exists() and not (base / "turns").is_dir():
        raise UserError(
            f"there is no prepared '{dataset}' in '{source}' (config.data.data_dir): prepare it "
            "with a local data_dir and the same --config.data.* (igerg prepare --help), then "
            f"copy it: gcloud storage rsync -r LOCAL/prepared {place}/prepared"
        )
    for folder in source.iterdir():
        if (base / folder.name).is_dir() or not (folder / manifests.FILE).exists():
            continue
        base.mkdir(parents=True, exist_ok=True)
        # On the same file system, so that a rename makes it appear all at once.
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="copy-", dir=base))
        try:
            files = _listed(folder)
            pairs = [(folder / name, scratch / name) for name in (*files, manifests.FILE)]
            _copy(pairs, f"copying {dataset}")
            for name, about in files.items():
                if (scratch / name).stat().st_size != about["bytes"]:
                    raise UserError(
                        f"'{folder / name}' does not have the size it was written with: copy it "
                        "to the bucket again"
                    )
            with contextlib.suppress(OSError):  # another process was first
                os.rename(scratch, base / folder.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"{dataset}: a copy of {source} in {base}", file=sys.stderr)


def _listed(folder: epath.Path) -> manifests.Files:
    try:
        return manifests.read(folder)
    except ValueError as error:
        raise UserError(
            f"'{folder / manifests.FILE}' is damaged ({error}): copy the folder there again"
        ) from error


def _copy(pairs: list[tuple[epath.Path, pathlib.Path]], label: str) -> None:
    def one(pair: tuple[epath.Path, pathlib.Path]) -> None:
        source, target = pair
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.replacing(target) as temporary:
            source.copy(temporary)

    if not pairs:
        return
    with concurrent.futures.ThreadPoolExecutor(_COPIES) as pool:
        for _ in parts.progress(pool.map(one, pairs), label, "file", total=len(pairs)):
            pass
