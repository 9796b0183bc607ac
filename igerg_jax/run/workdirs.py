"""A run's folder: whose it is, and whether a run may write there. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from typing import Any

from etils import epath, epy

from igerg_jax.errors import UserError

with epy.lazy_imports():  # JAX: seconds that --help and most refusals need not wait for
    from igerg_jax import objectives

TOKENIZER_FILE = "tokenizer.model"  # in a workdir: what its text was tokenised with
CHECKPOINTS = "checkpoints"  # the folder that `igerg_jax.run.checkpoint` keeps in a workdir

# What may differ between the runs of one workdir: how long, how often, where and on what machine,
# not what a step computes. (Another train.steps stretches a cosine schedule.) A name that ends
# with a dot stands for all keys under it. (An objective may fix one of them: see
# `igerg_jax.objectives.fixed_keys`.)
FREE_KEYS = (
    "train.steps",
    "train.log_every_steps",
    "train.evaluate_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.max_consecutive_skips",
    "train.stall_seconds",
    "evaluate.",
    "generate.",
    "distributed.",
    "profile.",
    "mesh.",
    "sharding_rules",
    "compilation_cache_dir",
    "data.data_dir",
    "data.bucket_copies_dir",
    "data.eval_split",
    "data.test_split",
    "data.prefetch_batches",
    "data.read_threads",
    "data.tokenizer.",  # a checkpoint knows its tokenizer by digest
    "model.vision.remat",
    "model.vision.attention",
    "model.text.remat",
    "model.text.attention",
)

# Of `model`, what may differ between training a checkpoint and using it: the function that it
# computes stays the same but for rounding.
FREE_MODEL_KEYS = (
    "model.compute_dtype",
    "model.vocab_chunk_tokens",
    "model.vision.remat",
    "model.vision.attention",
    "model.vision.frozen",
    "model.vision.dropout_rate",
    "model.text.remat",
    "model.text.attention",
    "model.text.dropout_rate",
)

USED_GROUPS = ("model.", "data.")  # what evaluation and generation read of a run's config

_SHOWN = 6  # names that a message lists before it only counts


def default(config: Any) -> epath.Path:
    """runs/<name>-<preset>, a slash in the name written as a dash."""
    return epath.Path("runs") / f"{config.name.replace('/', '-')}-{config.preset}"


def parse(text: str) -> epath.Path:
    """A path as typed: "~" is the home folder, gs:// a bucket of Google Cloud Storage.

    Raises:
      UserError: a kind of storage that is not known, or whose package is not installed.
    """
    scheme, colon, _ = text.partition("://")
    if not colon:
        return epath.Path(text).expanduser()
    if scheme != "gs":
        raise UserError(f"'{text}': paths are local, or gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"'{text}': gs:// needs gcsfs: pip install -r requirements-gcs.txt")
    return epath.Path(text)


def is_bucket(path: epath.Path) -> bool:
    """Whether `path` is an object store's: files there are written whole, never appended to."""
    return "://" in os.fspath(path)


def check(workdir: epath.Path, config: Any, training: bool = True) -> None:
    """Refuses, before anything is made, a workdir that this run cannot use.

    Args:
      training: every key must be that run's but for `FREE_KEYS`. Else only `model.*` and `data.*`
        must be: what it was trained with does not matter to who evaluates or generates.

    Raises:
      UserError: it cannot be written to, or its run had another config: the message names the
        keys that differ.
    """
    _check_writable(workdir)
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"'{path}' is not JSON; give another --workdir") from error
    keys = () if training else USED_GROUPS
    fixed = tuple(objectives.fixed_keys(config)) if training else ()
    different = _differences(
        _starting(flatten(stored), keys),
        _starting(flatten(as_json(config)), keys),
        FREE_KEYS,
        fixed,
    )
    if different:
        raise UserError(
            f"workdir '{workdir}' belongs to a run of another config: {listed(different)}. "
            "Give another --workdir, or that run's config"
        )


def write_whole(path: epath.Path, text: str) -> None:
    """Writes a file under another name, then renames it: who reads it finds all of it or none."""
    if is_bucket(path):  # an object appears when all of it is there
        path.write_text(text)
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def contains(workdir: epath.Path, file: Any) -> bool:
    """Whether `file`, a path or what else an OSError names, lies in the run's folder."""
    if not isinstance(file, str | os.PathLike):
        return False
    return epath.Path(file).resolve().is_relative_to(epath.Path(workdir).resolve())


def model_differences(stored: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """What of `model.*` differs between two configs (of `as_json`) and changes what it computes."""
    return _differences(
        flatten({"model": stored["model"]}), flatten({"model": given["model"]}), FREE_MODEL_KEYS
    )


def as_json(config: Any) -> dict[str, Any]:
    """A config as JSON keeps it (tuples become lists), so that two can be compared."""
    return json.loads(config.to_json_best_effort())


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to {dotted key: value}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _check_writable(workdir: epath.Path) -> None:
    if is_bucket(workdir):
        return  # a bucket says so itself when it is first written to
    folder = workdir
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"cannot make workdir '{workdir}': '{folder}' is a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to workdir '{workdir}': no permission in '{folder}'")


def _starting(flat: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    """The keys under one of `prefixes`; all where there are none."""
    return {key: value for key, value in flat.items() if not prefixes or key.startswith(prefixes)}


def _differences(
    stored: dict, given: dict, free: tuple[str, ...], fixed: tuple[str, ...] = ()
) -> list[str]:
    """Keys that differ, with both values, but for those in `free` that are not in `fixed`."""
    lines = []
    for key in sorted(stored.keys() | given.keys()):
        old, new = stored.get(key, "absent"), given.get(key, "absent")
        is_free = any(key == f or (f.endswith(".") and key.startswith(f)) for f in free)
        if old != new and (key in fixed or not is_free):
            lines.append(f"{key} (there {old!r}, here {new!r})")
    return lines
