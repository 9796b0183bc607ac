"""A run's folder: the names of its files, which config it belongs to, and who may write there.

Imports nothing heavy.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import socket
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from etils import epath, epy

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.run import bucket_lock, config_files, full_config

with epy.lazy_imports():  # it imports JAX: seconds that --help and most refusals need not wait for
    from igerg_jax import objectives

CONFIG_FILE = "config.json"  # in a workdir: the config of its run
METRICS_FILE = "metrics.jsonl"  # in a workdir: losses and rates by step
SUMMARY_FILE = "summary.json"  # in a workdir: the results of its run, once it is finished
TOKENIZER_FILE = "tokenizer.model"  # in a workdir: the tokenizer of its text
LOCK_FILE = "lock"  # in a workdir: names the process that trains there, or did so last
CHECKPOINTS = "checkpoints"  # the folder that `igerg_jax.run.checkpoint` keeps in a workdir

# Keys that may differ between the runs of one workdir: how long they train, how often they log,
# where and on which machine, but not what a step computes. A name that ends with a dot stands for
# all keys under it. (Another train.steps stretches a cosine schedule. A checkpoint identifies its
# tokenizer by digest. An objective may fix one of these keys: see
# `igerg_jax.objectives.fixed_keys`.)
FREE_KEYS = """
    train.steps train.log_every_steps train.evaluate_every_steps train.checkpoint_every_steps
    train.keep_checkpoints train.max_consecutive_skips train.stall_seconds
    train.stall_ends_run train.wandb_project
    evaluate. generate. distributed. profile. mesh. sharding_rules compilation_cache_dir
    data.data_dir data.bucket_copies_dir data.eval_split data.test_split
    data.extra_test_splits data.image_backend data.prefetch_batches data.read_threads
    data.prepare_workers data.tokenizer.
    model.vision.remat model.vision.attention model.text.remat model.text.attention
""".split()

# Keys of `model` that may differ between training a checkpoint and using it: they do not change
# what the model computes, except for rounding.
FREE_MODEL_KEYS = """
    model.compute_dtype model.vocab_chunk_tokens
    model.vision.remat model.vision.attention model.vision.frozen model.vision.dropout_rate
    model.text.remat model.text.attention model.text.dropout_rate
""".split()

_SHOWN = 6  # names that a message lists; it counts the others


def default(config: Any) -> epath.Path:
    """runs/<name>-<preset>, with dashes for slashes in the name."""
    return epath.Path("runs") / f"{config.name.replace('/', '-')}-{config.preset}"


def read_config(path: epath.Path) -> dict[str, Any]:
    """The config that a run wrote to its config.json. Raises UserError if it is damaged."""
    storage.check_regular_file(path)
    try:
        stored = storage.from_json(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' is not JSON; give another --workdir, or remove it") from error
    if not isinstance(stored, dict):
        raise UserError(f"'{path}' is not a config; give another --workdir, or remove it")
    return stored


def of_this_version(recorded: Any, file: epath.PathLike, say: bool = True) -> dict[str, Any]:
    """The config that a run recorded in `file`, to be compared with one that `as_json` returns: it
    has the keys of this version (`full_config.completed`). Raises UserError."""
    full = as_json(config_files.load_full())
    return full_config.completed(recorded, full, os.fspath(file), say)


def named(run: str) -> epath.Path:
    """runs/NAME. Raises UserError for a name that cannot be a folder's."""
    if not re.fullmatch(r"\w[\w.-]*", run):
        raise UserError(
            f"--run={run} is a name, of letters, digits, '.', '-' and '_': the run is written to "
            "runs/NAME; for another folder give --workdir"
        )
    return epath.Path("runs") / run


def check(workdir: epath.Path, config: Any, training: bool = True) -> None:
    """Raises UserError for a workdir that this run cannot use; creates nothing.

    That is one that cannot be written to, that lies among a run's checkpoints, or that belongs to a
    run of another config. All keys but `FREE_KEYS` must be the same. Without `training`, only those
    under `model` and `data` must be, and `FREE_MODEL_KEYS` may differ too: how a model was trained
    does not matter then.
    """
    check_writable(workdir)
    _check_outside_checkpoints(workdir)
    path = workdir / CONFIG_FILE
    if not path.exists():
        return
    stored = of_this_version(read_config(path), path)
    if training:
        fixed = objectives.fixed_keys(config)
        different = _differences(stored, as_json(config), FREE_KEYS, "", fixed)
    else:
        free = FREE_KEYS + FREE_MODEL_KEYS
        different = _differences(stored, as_json(config), free, ("model.", "data."))
    if different:
        raise UserError(
            f"workdir '{workdir}' belongs to a run of another config: {listed(different)}. "
            "Give a new run a name (--run=NAME: it is written to runs/NAME) or another --workdir, "
            "or give that run's config"
        )


@contextlib.contextmanager
def locked(
    workdir: epath.PathLike, kind: str = "workdir", flag: str = "--workdir"
) -> Iterator[None]:
    """Keeps other runs out of a workdir until the block or the process ends, even if it is killed.

    In a bucket, see `igerg_jax.run.bucket_lock`. (`filelock` does not tell who holds a lock, and on
    systems without flock a killed process never releases its own.)

    Args:
      kind: what messages call the folder.
      flag: the flag that names the folder.

    Raises:
      UserError: another process holds it; the message names the process and its host.
    """
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    if storage.is_bucket(workdir):
        with bucket_lock.locked(workdir / LOCK_FILE, owner):
            yield
        return
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOCK_FILE, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"{kind} '{workdir}' is in use by {file.read().strip() or 'another process'}; "
                f"wait until it ends, stop it, or give another {flag}"
            ) from error
        except OSError as error:  # a file system without locks
            print(f"{kind} '{workdir}' cannot be locked: {error.strerror}", file=sys.stderr)
        file.truncate(0)
        file.write(f"{owner}\n")
        file.flush()
        yield


def contains(workdir: epath.Path, file: Any) -> bool:
    """Whether `file`, an OSError's `filename` (which may not be a path), lies in `workdir`."""
    if not isinstance(file, str | os.PathLike):
        return False
    return epath.Path(file).resolve().is_relative_to(epath.Path(workdir).resolve())


def model_differences(stored: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """The keys under `model` whose difference changes what the model computes, with both values.

    `stored` is as `of_this_version` returns it, `given` as `as_json`.
    """
    return _differences(stored, given, FREE_MODEL_KEYS, "model.")


def input_differences(stored: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """The keys under `data` whose difference changes a model's inputs, with both values.

    `stored` is as `of_this_version` returns it, `given` as `as_json`.
    """
    keys = """
        dataset use_images include_response_image context_turns context_tokens response_tokens
        image_size preprocessing
    """
    stored, given = (
        {"data": {k: c.get("data", {}).get(k) for k in keys.split()}} for c in (stored, given)
    )
    return _differences(stored, given, (), "data.")


def as_json(config: Any) -> dict[str, Any]:
    """A config as JSON stores it (tuples become lists), so that two can be compared."""
    return json.loads(config.to_json_best_effort())


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested dicts or of a ConfigDict; empty groups are left out."""
    # (flax.traverse_util would import JAX: seconds before every message about a wrong flag.)
    flat: dict[str, Any] = {}
    for key, value in config.items():
        is_group = hasattr(value, "items")
        flat |= flatten(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value}
    return flat


def listed(names: Sequence[str]) -> str:
    """The first few names, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Whether a dotted key is one of `patterns`, or below one that ends with a dot."""
    return any(key == p or (p.endswith(".") and key.startswith(p)) for p in patterns)


def check_writable(workdir: epath.Path) -> None:
    """Raises UserError for a workdir that cannot be created or written to; creates nothing."""
    if storage.is_bucket(workdir):
        return  # without permission, the first write fails
    folder, missing = workdir, []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"cannot create workdir '{workdir}': '{folder}' is a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to workdir '{workdir}': no permission in '{folder}'")
    made = []
    try:  # names that are too long, links in circles, /proc: only trying tells
        for new in reversed(missing):
            new.mkdir()
            made.append(new)
    except FileExistsError:
        if not workdir.is_dir():  # else another process of the run was first
            raise UserError(f"cannot create workdir '{workdir}': a link to nowhere") from None
    except OSError as error:
        raise UserError(f"cannot create workdir '{workdir}': {error.strerror}") from error
    finally:
        for new in reversed(made):
            with contextlib.suppress(OSError):  # another process uses it already
                new.rmdir()


def _check_outside_checkpoints(workdir: epath.Path) -> None:
    """Raises UserError for a folder among the checkpoints of a run."""
    is_remote = storage.is_bucket(workdir)  # and epath resolves no links
    place = workdir if is_remote else epath.Path(pathlib.Path(workdir).resolve())
    for folder in (place, *place.parents):
        run = folder.parent
        if folder.name == CHECKPOINTS and folder.exists() and (run / CONFIG_FILE).exists():
            raise UserError(
                f"workdir '{workdir}' lies among the checkpoints of the run '{run}': give "
                f"--workdir={run}, or a folder outside it"
            )


def _differences(
    stored: dict,
    given: dict,
    free: Sequence[str],
    groups: str | tuple[str, ...],
    fixed: Collection[str] = (),
) -> list[str]:
    """The keys that start with one of `groups` and differ, with both values; without those that
    match `free` and are not in `fixed`."""
    stored, given = flatten(stored), flatten(given)
    lines = []
    for key in sorted(stored.keys() | given.keys()):
        old, new = stored.get(key, "absent"), given.get(key, "absent")
        is_free = key not in fixed and matches(key, free)
        if key.startswith(groups) and old != new and not is_free:
            lines.append(f"{key} (there {old!r}, here {new!r})")
    return lines
