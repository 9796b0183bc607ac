"""The starting point of all code that uses a model: the module, its mesh, and the shapes and
shardings of its parameters.

`set_up` computes no parameters. Nothing here is specific to training:
`igerg_jax.training.train_state` adds the optimizer's state.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from igerg_jax import kept_traces, storage
from igerg_jax.batch import BatchSpec, SpecialIds, synthetic
from igerg_jax.errors import UserError
from igerg_jax.models import settings, vision
from igerg_jax.models.igerg import OPTIONAL_PARTS, Igerg
from igerg_jax.models.partitioning import is_one_cpu
from igerg_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Setup:
    """A model and how its parameters are sharded over a mesh; no array exists yet."""

    config: Any
    model: Igerg
    spec: BatchSpec  # of a training batch, the longest that there is
    mesh: Mesh
    rules: tuple  # (logical axis name, mesh axes) pairs
    abstract_params: Any  # `jax.ShapeDtypeStruct` leaves with their shardings

    def describe(self) -> str:
        """All that a program of this model on this mesh depends on, besides code, as text."""
        config, kind = self.config.to_json_best_effort(), self.mesh.devices.flat[0].device_kind
        return repr((config, self.model, self.spec, self.mesh, kind, self.rules))

    @property
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a training batch, sharded over the mesh."""
        placed = sharding.batch_sharding(self.mesh)
        kinds = self.spec.shapes().items()
        return {name: jax.ShapeDtypeStruct(*kind, sharding=placed) for name, kind in kinds}


def set_up(
    config: Any,
    vocab_size: int,
    special: SpecialIds,
    devices=None,
    parts: tuple[str, ...] = OPTIONAL_PARTS,
) -> Setup:
    """The model that `config` describes, and its shardings over `devices` (default all).

    Args:
      parts: as for `build_model`.

    Raises:
      UserError: the mesh does not fit the devices, or a dimension does not divide over its axes.
    """
    mesh = sharding.make_mesh(config.mesh, devices)
    model = build_model(config, vocab_size, special, parts)
    spec = BatchSpec.of(config.data, config.train.batch_size)
    rules = sharding.rules(config)
    boxed = _abstract_params(initialiser(config, model), spec)
    shardings = sharding.state_shardings(boxed, mesh, rules)
    params = jax.tree.map(sharding.abstract, nn.meta.unbox(boxed), shardings)
    return Setup(config, model, spec, mesh, rules, params)


def build_model(
    config: Any, vocab_size: int, special: SpecialIds, parts: tuple[str, ...] = OPTIONAL_PARTS
) -> Igerg:
    """The module that `config.model` describes.

    Args:
      config: one that `igerg_jax.checks.check_model` has passed.
      parts: the optional parts that it has; for training, those of `objectives.parts`.

    Raises:
      UserError: the data's sequences are longer than the model's position table.
    """
    model, data = config.model, config.data
    longest = max(data.context_tokens, data.response_tokens)
    if longest > model.text.max_positions:
        raise UserError(
            f"model.text.max_positions={model.text.max_positions} is below the {longest} tokens "
            "of data.context_tokens or data.response_tokens; raise the one or lower the other"
        )
    dtype = jnp.dtype(model.compute_dtype)
    return settings.select(
        Igerg,
        model,
        parts=parts,
        vision_tower=vision.build(model.vision, dtype, data.image_size, data.feature_dim),
        tokens_per_image=model.vision.tokens_per_image,
        vision_frozen=model.vision.frozen,
        text=_text_settings(model.text, dtype),
        judge=_judge_settings(model, vocab_size, dtype),
        vocab_size=vocab_size,
        max_turns=data.context_turns + 1,
        special=special,
        dtype=dtype,
    )


def initialiser(config: Any, model: Igerg) -> Igerg:
    """A module with the same parameters as `model`, whose layers are loops.

    That takes less time to trace and to compile: 7.4 s in place of 9.2 for the default run, on one
    core.
    """
    config = config.copy_and_resolve_references()
    config.model.vision.scan_layers = config.model.text.scan_layers = True
    return build_model(config, model.vocab_size, model.special, model.parts)


def _text_settings(text: Any, dtype: jnp.dtype) -> settings.TextSettings:
    fixed = dict(gelu="exact", norm_epsilon=settings.BART_EPSILON, dtype=dtype)
    encoder, decoder = (
        settings.select(settings.StackSettings, text, layers=layers, **fixed)
        for layers in (text.encoder_layers, text.decoder_layers)
    )
    return settings.TextSettings(text.width, text.max_positions, encoder, decoder)


def _judge_settings(model: Any, vocab_size: int, dtype: jnp.dtype) -> settings.JudgeSettings:
    fixed = dict(gelu="exact", norm_epsilon=settings.BART_EPSILON, norm_first=True, dtype=dtype)
    fixed |= dict(attention="xla", remat="none", dropout_rate=0.0)
    stack = settings.select(
        settings.StackSettings, model.judge, scan_layers=model.text.scan_layers, **fixed
    )
    return settings.JudgeSettings(model.judge.width, model.text.max_positions, vocab_size, stack)


@contextlib.contextmanager
def mesh_context(setup: Setup):
    """The context to trace the model in: its mesh, and the rules for logical axis names."""
    with jax.set_mesh(setup.mesh), nn.logical_axis_rules(setup.rules):
        yield


def base_key(config: Any) -> jax.Array:
    """The key from which all random keys of a run are derived."""
    return jax.random.key(config.seed, impl=config.train.prng)


def with_kept_trace(description: str, function: Callable) -> Callable:
    """`function`, to be called within a trace; on a single CPU its own trace is kept on disk
    (`kept_traces`): there tracing is much of the time that a command takes to start.

    Args:
      description: of all that it depends on, besides code and its arguments' shapes and dtypes.
      function: of arrays and trees of them; both may be nested only in tuples, lists and dicts.
    """

    def call(*arguments: Any) -> Any:
        if not (kept_traces.keeps() and is_one_cpu()):
            return function(*arguments)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
        try:
            kept = kept_traces.traced(f"{description} {shapes}", function, *shapes)
        except NotImplementedError:  # it calls back to Python, which no file can hold
            return function(*arguments)
        return kept(*arguments)

    return call


class Jitted:
    """`function(model, ...)` jitted on the setup's mesh, with its result replicated.

    Its trace is kept (`with_kept_trace`) of functions, or `functools.partial`s of them, of which
    the names and arguments say everything, as text.
    """

    def __init__(self, setup: Setup, function: Callable):
        self._setup, self._traced = setup, functools.partial(function, setup.model)
        self._function = jax.jit(self._call, out_shardings=sharding.replicated(setup.mesh))

    def __call__(self, *arguments: Any) -> Any:
        with mesh_context(self._setup):
            return self._function(*arguments)

    def compile(self, *arguments: Any) -> None:
        """Compiles ahead of the first call, for arguments like these: arrays, or
        `jax.ShapeDtypeStruct`s with shardings."""
        with mesh_context(self._setup):
            self._function.lower(*arguments).compile()

    def _call(self, *arguments: Any) -> Any:
        """What is jitted."""
        function, setup = self._traced.func, self._setup
        if not _is_named(function):
            return self._traced(*arguments)
        given = function.__module__, function.__qualname__, self._traced.args, self._traced.keywords
        description = repr((given, setup.mesh, setup.rules))
        return with_kept_trace(description, self._traced)(*arguments)


def _is_named(function: Callable) -> bool:
    """Whether a function is told by its name; a lambda is not, nor what holds others' variables."""
    return function.__closure__ is None and "<lambda>" not in function.__qualname__


def replicated_key(setup: Setup) -> jax.Array:
    """`base_key`, replicated on every device of the mesh."""
    with jax.set_mesh(setup.mesh):
        return jax.jit(
            lambda: base_key(setup.config), out_shardings=sharding.replicated(setup.mesh)
        )()


def init_params(config: Any, model: Igerg, spec: BatchSpec) -> Any:
    """Boxed parameters: arrays with their logical axis names."""
    # Not `train.prng`: initial parameters must not depend on the mesh.
    key = jax.random.key(config.seed, impl="threefry2x32")
    return model.init(key, _one_row(model, spec))["params"]


@functools.lru_cache(maxsize=8)  # checks, training and evaluation each call `set_up`
def _abstract_params(model: Igerg, spec: BatchSpec) -> Any:
    """The shapes of `init_params`, which depend on neither the seed nor the mesh."""

    def trace() -> bytes:
        shapes = dataclasses.replace(spec, batch_size=1).shapes()
        init = functools.partial(model.init, jax.random.key(0))
        one_row = {name: jax.ShapeDtypeStruct(*kind) for name, kind in shapes.items()}
        boxed = traverse_util.flatten_dict(jax.eval_shape(init, one_row)["params"], sep="/")
        return json.dumps({path: _shape_and_names(leaf) for path, leaf in boxed.items()}).encode()

    kept = json.loads(kept_traces.kept(f"parameters {model} {spec}", trace))
    return traverse_util.unflatten_dict({path: _box(*of) for path, of in kept.items()}, sep="/")


def _shape_and_names(leaf: Any) -> tuple:
    """(shape, dtype, logical axis names) of an abstract parameter."""
    value = nn.meta.unbox(leaf)
    return value.shape, value.dtype.name, leaf.names


def _box(shape: list[int], dtype: str, names: list[str | None]) -> nn.LogicallyPartitioned:
    """The reverse of `_shape_and_names`."""
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(tuple(shape), dtype), tuple(names))


def _one_row(model: Igerg, spec: BatchSpec) -> dict[str, np.ndarray]:
    """A batch to initialise with: no parameter's shape depends on B."""
    one_row = dataclasses.replace(spec, batch_size=1)
    return synthetic(one_row, model.special, model.vocab_size, seed=0)


def enable_compilation_cache(config: Any) -> None:
    """Sets JAX's compilation cache to `config.compilation_cache_dir`, unless it is set already, and
    keeps traces within it.

    Where that cannot be written to, as in a read-only home, a line on stderr says so, and programs
    are only read from it, if it exists: that costs time, and no result depends on it.

    Raises:
      UserError: it begins with "~NAME", and there is no such user.
    """
    folder = config.compilation_cache_dir
    if folder and jax.config.jax_compilation_cache_dir is None:
        if not storage.is_bucket(folder):
            folder = os.fspath(storage.local_path(folder))
        is_kept = storage.is_bucket(folder) or _can_write_to(folder)
        if not is_kept:  # JAX would warn of each program that it cannot write
            jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)
        if is_kept or os.path.isdir(folder):
            jax.config.update("jax_compilation_cache_dir", folder)
    if jax.config.jax_compilation_cache_dir:
        kept_traces.keep_in(os.path.join(jax.config.jax_compilation_cache_dir, "traced"))


def _can_write_to(folder: str) -> bool:
    """Creates a folder; prints a line if it cannot be written to."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        print(
            f"note: compiled programs are not kept: cannot write to '{folder}' "
            f"(config.compilation_cache_dir): {error.strerror}",
            file=sys.stderr,
        )
        return False
