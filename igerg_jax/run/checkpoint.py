"""Checkpoints of a run (Orbax), and loading their parameters to fine-tune or evaluate.

    <workdir>/checkpoints/<step>/state/   params, optimizer, counters: a `TrainState`
    <workdir>/checkpoints/<step>/run/     JSON: step, seed, tokenizer digest, config, provenance
    <workdir>/checkpoints/<step>/files.json   checksums: see `igerg_jax.run.integrity`

Arrays are restored straight into the requested shardings, on any mesh. Paths may be anything that
epath reads: local folders, gs://. Parameters may also come from a weights folder
(`igerg_jax.run.weights_folder`).

This uses Orbax's first API. Its V1 reads these checkpoints (tests/run/test_checkpoint.py), but is
still `orbax.checkpoint.experimental.v1` in 0.12.8, and its names changed after 0.11.40: see
docs/reliability.md.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from igerg_jax import manifests, storage
from igerg_jax.constraints import check_choice
from igerg_jax.errors import UserError
from igerg_jax.metrics import measured_in_training
from igerg_jax.run import compatibility, failed_saves, integrity, weights_folder, workdirs
from igerg_jax.run.compatibility import Shapes, shapes
from igerg_jax.run.integrity import RUN, DamagedCheckpoint
from igerg_jax.run.provenance import provenance
from igerg_jax.setup import Setup

STATE = "state"  # the item of a checkpoint that holds its arrays
_AVERAGE = "ema_params"  # in a state: the moving average of its "params"
_METRICS = "metrics"  # Orbax's name for their item and its file
_MIN_SLICE_BYTES = 1 << 20


class Checkpoints:
    """The checkpoints of one workdir. Nothing is created before the first save.

    It keeps the last `config.train.keep_checkpoints`, and the best by `config.evaluate.best_metric`
    of those that have metrics. Saves run in the background and are atomic: an
    interrupted save never looks like a checkpoint.
    """

    def __init__(self, workdir: epath.PathLike, config: Any, tokenizer_digest: str):
        self._folder = absolute(workdir) / workdirs.CHECKPOINTS
        self._config, self._tokenizer_digest = config, tokenizer_digest
        self._opened: ocp.CheckpointManager | None = None
        # The step that is being saved or was last; the bytes of its state and its arrays.
        self._saving: tuple[int, tuple[int, int]] = 0, (0, 0)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, which may be damaged; None if there is none."""
        return max(integrity.steps(self._folder), default=None)

    def save(self, state: Any, metrics: dict[str, float] | None = None) -> bool:
        """Starts to save `state` under its step, once the previous save has finished.

        `metrics` are those of an evaluation of this state; without `best_metric` among them it is
        not a candidate for the best. Returns False if this step has been saved already.
        """
        step = int(state.step)
        self.wait()
        if step in self._manager.all_steps():
            return False
        leaves = jax.tree.leaves(state)
        self._saving = step, (sum(leaf.nbytes for leaf in leaves), len(leaves))
        metrics = metrics or {}
        score = metrics.get(self._config.evaluate.best_metric, math.nan)
        record = run_record(self._config, step, self._tokenizer_digest)
        items = {STATE: ocp.args.PyTreeSave(state), RUN: ocp.args.JsonSave(record)}
        # A NaN would stay the best forever.
        values = {k: float(v) for k, v in metrics.items()} if math.isfinite(score) else None
        with self._explained():
            return self._manager.save(step, args=ocp.args.Composite(**items), metrics=values)

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Makes the state that was saved under `step` a candidate for the best, as in `save`."""
        self.wait()
        if not math.isfinite(metrics.get(self._config.evaluate.best_metric, math.nan)):
            return
        if jax.process_index() == 0:
            folder = self._folder / str(step) / _METRICS
            folder.mkdir(exist_ok=True)
            text = json.dumps({name: float(value) for name, value in metrics.items()})
            storage.write_text(folder / _METRICS, text)
            manifests.add(folder.parent, f"{_METRICS}/{_METRICS}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"metrics of step {step}")
        self._manager.reload()

    def lacks_metrics(self, step: int) -> bool:
        """Whether the state was saved under `step` without metrics, and none were added."""
        return step in self._manager.all_steps() and self._manager.metrics(step) is None

    def restore(self, abstract_state: Any) -> Any:
        """The newest intact state, placed on the shardings of `abstract_state`.

        Newer checkpoints, which are damaged, are moved aside and reported.

        Raises:
          UserError: none is intact, it has another tokenizer, or its names or shapes differ from
            those of `abstract_state`; the message lists them.
        """
        damaged: dict[int, DamagedCheckpoint] = {}
        for step in reversed(integrity.steps(self._folder)):
            try:
                state = self._restore(self._folder / str(step), abstract_state)
            except DamagedCheckpoint as error:
                damaged[step] = error
                continue
            for newer, damage in damaged.items():
                there = integrity.set_aside(self._folder / str(newer))
                if jax.process_index() == 0:
                    problem = str(damage).partition(". ")[0]
                    message = f"{problem}; continuing from step {step}; moved to '{there}'"
                    print(message, file=sys.stderr)
            return state
        if damaged:
            raise UserError(
                f"no checkpoint in '{self._folder}' is intact: {next(iter(damaged.values()))}. To "
                "start again from the first step, remove that folder"
            )
        raise UserError(f"there is no checkpoint in '{self._folder}'")

    def _restore(self, path: epath.Path, abstract_state: Any) -> Any:
        integrity.check(path)
        compatibility.check_tokenizer(read_run(path), self._tokenizer_digest, path)
        wanted = shapes(abstract_state)
        stored = compatibility.without_unused_parts(_stored_shapes(path), wanted, path)
        compatibility.check_same_shapes(stored, wanted, path)
        return _restore(path, abstract_state)

    def wait(self) -> None:
        """Waits until all saves are on disk. Raises the error of a background save that failed."""
        if self._opened is not None:
            with self._explained():
                self._opened.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the background threads."""
        if self._opened is not None:
            try:
                self.wait()
            finally:
                self._opened.close()
                self._opened = None

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return failed_saves.explained(self._folder, *self._saving, self.latest_step)

    @property
    def _manager(self) -> ocp.CheckpointManager:
        if self._opened is None:
            mode = self._config.evaluate.best_mode
            best = policies.BestN(
                get_metric_fn=self._score,
                reverse=mode == "min",  # it keeps the end of the sorted list
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            last = policies.LatestN(self._config.train.keep_checkpoints)
            self._set_aside_unreadable_metrics()
            failed_saves.silence_threads()
            self._opened = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    best_fn=self._score,
                    best_mode=mode,
                    preservation_policy=policies.AnyPreservationPolicy([last, best]),
                    async_options=ocp.options.AsyncOptions(
                        post_finalization_callback=lambda: integrity.write_list(
                            self._folder, self._saving[0]
                        )
                    ),
                ),
                item_handlers={STATE: _arrays(), RUN: ocp.JsonCheckpointHandler()},
            )
        return self._opened

    def _set_aside_unreadable_metrics(self) -> None:
        """Moves checkpoints with damaged metrics aside, because Orbax reads the metrics of all."""
        seen = [str(step) for step in integrity.steps(self._folder) if not self._is_readable(step)]
        for step in sorted(
            {s for text in integrity.allgather_text(" ".join(seen)) for s in text.split()}
        ):
            there = integrity.set_aside(self._folder / step)
            if jax.process_index() == 0:
                message = (
                    f"checkpoint '{self._folder / step}' has damaged metrics: moved to '{there}'"
                )
                print(message, file=sys.stderr)

    def _is_readable(self, step: int) -> bool:
        path = self._folder / str(step) / _METRICS / _METRICS
        if not storage.is_regular_file(path):  # a pipe would be waited for
            return not path.exists()
        try:
            return isinstance(storage.from_json(path.read_text()), dict)
        except ValueError:  # not JSON, or not UTF-8
            return False

    def _score(self, metrics: dict[str, float]) -> float:
        evaluate = self._config.evaluate
        worst = math.inf if evaluate.best_mode == "min" else -math.inf
        # An earlier start in this workdir may have used another metric.
        return metrics.get(evaluate.best_metric, worst)


def check_retention(config: Any) -> None:
    """Raises UserError if the best checkpoint cannot be chosen as configured."""
    evaluate = config.evaluate
    check_choice("evaluate.best_mode", evaluate.best_mode, ("min", "max"))
    measured = measured_in_training()
    if evaluate.best_metric not in measured:
        raise UserError(
            f"evaluate.best_metric '{evaluate.best_metric}' is not measured during training, which "
            f"generates no responses; available: {', '.join(measured)}"
        )


class Loaded(NamedTuple):
    """Which parameters `load_params` read from a checkpoint; names are separated by slashes."""

    path: epath.Path  # the checkpoint's folder
    averaged: bool  # they are the moving average, not the last parameters
    loaded: tuple[str, ...]
    skipped: tuple[str, ...]  # absent from the model, or of another shape there
    initialised: tuple[str, ...]  # in the model but not in the checkpoint

    def describe(self) -> str:
        source = "moving average" if self.averaged else "parameters"
        parts = [f"loaded {len(self.loaded)} arrays of the {source} in {self.path}"]
        if self.skipped:
            parts.append(f"skipped {workdirs.listed(self.skipped)}")
        if self.initialised:
            parts.append(f"randomly initialised: {workdirs.listed(self.initialised)}")
        return "; ".join(parts)


def load_params(
    path: epath.PathLike,
    setup: Setup,
    initial: Any | None = None,
    tokenizer_digest: str | None = None,
    parts: Sequence[str] = (),
) -> tuple[Any, Loaded]:
    """Reads the parameters of a checkpoint onto `setup`'s mesh, without the optimizer's state.

    Args:
      path: as for `find`.
      initial: the initialised parameters, which replace those that the checkpoint lacks or has in
        another shape (fine-tuning). None: the checkpoint must have all parameters, and the config's
        `model.*` must be that of its training (evaluation, generation).
      tokenizer_digest: of the run's tokenizer; None = not compared.
      parts: with `initial`: of the model, by name, such as "vision_tower"; no others are read, and
        the tokenizer is compared only if they know words. () = all.

    Returns:
      (parameters like `setup.abstract_params`, which of them were read). They are the moving
      average if the checkpoint has one.

    Raises:
      UserError: no checkpoint there, another tokenizer, or too few parameters that match.
    """
    folder = find(path)
    run = read_run(folder)
    if tokenizer_digest is not None and compatibility.know_words(parts):
        compatibility.check_tokenizer(run, tokenizer_digest, folder)
    part, stored = _stored_params(folder)
    wanted = flatten_dict(setup.abstract_params, sep="/")
    if initial is None:
        wanted = compatibility.without_lacking_parts(wanted, stored)
    wanted_shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    if initial is None:
        compatibility.check_same_model(run, setup.config, folder)
        # A checkpoint may hold more than this model has.
        compatibility.check_same_shapes(
            {n: s for n, s in stored.items() if n in wanted}, wanted_shapes, folder
        )
    chosen_names = compatibility.of_parts(wanted, parts)
    loaded = tuple(name for name in chosen_names if stored.get(name) == wanted_shapes[name])
    if not loaded:
        raise UserError(
            f"no parameter of '{folder}' has a name and shape of this model; "
            "start from a checkpoint of the same preset"
        )
    if initial is not None:
        compatibility.check_same_function(run, setup.config, loaded, folder)
    chosen = unflatten_dict({name: wanted[name] for name in loaded}, sep="/")
    params = flatten_dict(_restore(folder, {part: chosen})[part], sep="/")
    if initial is not None:
        params = flatten_dict(initial, sep="/") | params
    skipped = tuple(name for name in stored if name not in loaded)
    initialised = tuple(name for name in wanted if name not in loaded)
    record = Loaded(folder, part == _AVERAGE, loaded, skipped, initialised)
    return unflatten_dict(params, sep="/"), record


def check_init(path: epath.PathLike, setup: Setup, parts: Sequence[str] = ()) -> None:
    """Raises UserError if training cannot start from a checkpoint: there is none, most of its
    parameters have other shapes than the model's, because its model has another size, or it lacks
    a parameter of the named `parts` of the model."""
    try:
        folder = find(path)
    except UserError as error:
        raise UserError(f"init_from='{path}': {error}") from error
    stored, wanted = _stored_params(folder)[1], shapes(setup.abstract_params)
    if parts:
        compatibility.check_parts(parts, stored, wanted, path)
        return
    shared = [name for name in wanted if name in stored]
    differ = [name for name in shared if stored[name] != wanted[name]]
    if not shared or 2 * len(differ) > len(shared):
        examples = [f"{name} (there {stored[name]}, here {wanted[name]})" for name in differ]
        raise UserError(
            f"init_from='{path}' is of another model: of {len(shared)} parameters that both have, "
            f"{len(differ)} differ in shape: {workdirs.listed(examples)}. "
            "Give the preset that it was trained with (--config=FILE:PRESET)"
        )


def find(path: epath.PathLike) -> epath.Path:
    """The folder of one checkpoint, or a weights folder.

    Args:
      path: a workdir or its checkpoints folder (the newest step is found), the folder of one step,
        a weights folder, or the name of a weights folder of this package.

    Raises:
      UserError: there is none, or the weights folder is damaged.
      DamagedCheckpoint: a UserError; the newest is damaged.
    """
    name, path = path, absolute(path)
    if not path.exists() and (shipped := weights_folder.shipped(name)):
        path = shipped
    if weights_folder.is_weights_folder(path):
        weights_folder.check(path)
        return path
    found = _newest(path)
    if found is not None:
        integrity.check_once(found)
        return found
    raise UserError(
        f"there is no checkpoint in '{path}'; give a workdir that a run has saved to, "
        "its checkpoints folder, the folder of one step, or the name of a model that comes with "
        f"igerg_jax: {', '.join(weights_folder.shipped_names())}"
    )


def _newest(path: epath.Path) -> epath.Path | None:
    """The folder of the checkpoint in `path` (see `find`), which may be damaged."""
    folder = path / workdirs.CHECKPOINTS
    if steps := integrity.steps(folder):
        return folder / str(steps[-1])
    if path.name == workdirs.CHECKPOINTS:
        steps = integrity.steps(path)
    elif path.is_dir():  # copied to a folder of another name
        steps = sorted(ocp.path.step.checkpoint_steps(path))
    if steps:
        return path / str(steps[-1])
    is_step = path.name.isdecimal() and path.parent.name == workdirs.CHECKPOINTS and path.is_dir()
    return path if is_step or (path / STATE).exists() else None


def tokenizer_file(folder: epath.Path) -> epath.Path:
    """The path of the tokenizer that goes with a folder of `find`; there may be no such file."""
    if weights_folder.is_weights_folder(folder):
        return folder / workdirs.TOKENIZER_FILE
    return folder.parent.parent / workdirs.TOKENIZER_FILE  # <workdir>/checkpoints/<step>


def run_record(config: Any, step: int, tokenizer_digest: str) -> dict[str, Any]:
    """The record of its run that a checkpoint holds besides the arrays; `read_run` reads it."""
    return {
        "step": step,
        "seed": config.seed,
        "tokenizer_digest": tokenizer_digest,
        "config": workdirs.as_json(config),
        integrity.PROVENANCE: provenance(),
    }


def absolute(path: epath.PathLike) -> epath.Path:
    """The absolute path that Orbax needs."""
    path = storage.parse_path(os.fspath(path))
    return path if storage.is_bucket(path) else path.resolve()


def read_run(path: epath.Path) -> dict[str, Any]:
    """What `run_record` returned, as JSON, of the checkpoint in `path` (see `find`)."""
    if weights_folder.is_weights_folder(path):
        return weights_folder.read_run(path)
    with integrity.reading(path), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore(path / RUN)


def _arrays() -> ocp.PyTreeCheckpointHandler:
    """The handler that reads and writes a state.

    Orbax has each replica of an array write a slice, and compiles the slicing for every shape,
    which takes seconds for the hundreds of arrays of a small model. Only large slices are worth
    that.
    """
    handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_MIN_SLICE_BYTES)
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, handler),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),  # as igerg_jax.tools.weights writes
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _stored_shapes(path: epath.Path) -> Shapes:
    if weights_folder.is_weights_folder(path):
        arrays = weights_folder.read_arrays(path)
        return {f"params/{name}": array.shape for name, array in arrays.items()}
    with integrity.reading(path), ocp.Checkpointer(_arrays()) as reader:
        return shapes(reader.metadata(path / STATE).item_metadata.tree)


def _stored_params(path: epath.Path) -> tuple[str, Shapes]:
    """(the part of a checkpoint that inference uses, its parameters' shapes): the moving average if
    there is one, else "params"."""
    stored = _stored_shapes(path)
    part = _AVERAGE if any(name.startswith(f"{_AVERAGE}/") for name in stored) else "params"
    prefix = f"{part}/"
    return part, {n.removeprefix(prefix): s for n, s in stored.items() if n.startswith(prefix)}


def _restore(path: epath.Path, wanted: Any) -> Any:
    """Reads the leaves of `wanted` (ShapeDtypeStructs with shardings), and no others."""
    if weights_folder.is_weights_folder(path):
        return {"params": weights_folder.read_params(path, wanted["params"])}
    restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
    args = ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)
    with integrity.reading(path), ocp.Checkpointer(_arrays()) as reader:
        return reader.restore(path / STATE, args=args)
