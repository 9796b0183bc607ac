"""The smallest configs, models, batches and parameters that can show a property.

They are plain functions rather than fixtures, so that a test file can compile once and share it.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

from configs import pretrain
from igerg_jax import batch as batch_lib
from igerg_jax.models.igerg import Igerg
from igerg_jax.objectives import combination
from igerg_jax.objectives.base import Context
from igerg_jax.setup import build_model

SPECIAL = batch_lib.SENTENCEPIECE_IDS
VOCAB_SIZE = 40
FEATURE_DIM = 12


def make_config(**changes) -> ConfigDict:
    """Precomputed features, one layer of width 16; in `changes`, "__" in a key stands for a dot."""
    config = pretrain.get_config()
    config.data.update(context_turns=2, context_tokens=12, response_tokens=6)
    config.data.update(image_size=16, feature_dim=FEATURE_DIM)
    config.model.vision.update(kind="features", width=16, layers=1, heads=2, mlp_width=32)
    config.model.text.update(width=16, encoder_layers=1, decoder_layers=1, heads=2, mlp_width=32)
    config.model.text.max_positions = 16
    config.model.judge.update(width=8, layers=1, heads=2, mlp_width=16)
    config.model.update(contrastive_width=8, vocab_chunk_tokens=4)
    for part in (config.model.vision, config.model.text):
        part.scan_layers = True  # compiles faster
    # lambda is at its maximum from step 0.
    config.objectives.emotional_response.update(
        consistency_weight=1.0, consistency_start_step=-1, consistency_ramp_steps=1
    )
    config.generate.update(
        strategy="beam", candidates=1, temperature=1.0, guidance=1.0, no_repeat_ngram=3
    )
    config.train.update(batch_size=8, steps=20)
    config.optim.update(warmup_steps=4, initial_learning_rate=1e-7, peak_learning_rate=1e-3)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def only(config: ConfigDict, *names: str) -> ConfigDict:
    """Switches every other objective off."""
    for name in config.objectives:
        config.objectives[name].weight = float(name in names)
    return config


def with_pixels(config: ConfigDict) -> ConfigDict:
    """A ViT on 16-pixel images instead of precomputed features."""
    config.data.feature_dim = 0
    config.model.vision.kind = "vit"
    return config


def make_model(config: ConfigDict) -> Igerg:
    return build_model(config, VOCAB_SIZE, SPECIAL)


def make_batch(config: ConfigDict, seed: int = 0, batch_size: int = 0) -> dict[str, np.ndarray]:
    spec = batch_lib.BatchSpec.of(config.data, batch_size or config.train.batch_size)
    return batch_lib.synthetic(spec, SPECIAL, VOCAB_SIZE, seed)


def make_params(module: nn.Module, *inputs, seed: int = 0, spread: float = 0.3, **kwargs):
    """Parameters drawn with NumPy, without compiling `init`.

    They are far larger than at initialisation, so that anything that should affect the result does
    so visibly. Norm scales are around 1.
    """
    leaves, tree = jax.tree.flatten(inputs)
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    abstract = _abstract_variables(module, tree, shapes, tuple(kwargs.items()))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        around = 1.0 if path[-1].key in ("scale", "variance") else 0.0
        width = 0.1 if around else spread
        return jnp.asarray(around + width * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, nn.meta.unbox(abstract))["params"]


@functools.cache
def _abstract_variables(module: nn.Module, tree, shapes: tuple, kwargs: tuple):
    """Traced once for all tests of a module."""
    inputs = jax.tree.unflatten(tree, shapes)
    return jax.eval_shape(
        lambda *inputs: module.init(jax.random.key(0), *inputs, **dict(kwargs)), *inputs
    )


def program(function, *inputs) -> str:
    """What a function computes for its results: equal programs give equal bits.

    Inputs are traced; what the function closes over is part of the program.
    """
    closed = jax.make_jaxpr(function)(*inputs)
    live, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals))
    constants = [(np.shape(x), _bits(x).tobytes()) for x in closed.consts]
    return f"{live}\n{constants}"


def _bits(x) -> np.ndarray:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def flat(tree) -> dict[str, np.ndarray]:
    """Returns {path: array}, so that messages can name what differs."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_trees_close(actual, expected, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    actual, expected = flat(actual), flat(expected)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[name], rtol=rtol, atol=atol, err_msg=name)


def assert_trees_equal(actual, expected) -> None:
    """Asserts bitwise equality."""
    actual, expected = flat(actual), flat(expected)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def largest(tree) -> float:
    """The largest absolute value anywhere in a tree."""
    return max(float(np.abs(leaf).max(initial=0.0)) for leaf in flat(tree).values())


def context(config: ConfigDict, batch, name: str, rows_B=None, params=None) -> Context:
    """What the objective of that name is given of a batch, not encoded."""
    rows_B = jnp.arange(len(batch["context"])) if rows_B is None else rows_B
    model, key = make_model(config), jax.random.key(0)
    (given,) = combination.contexts(config, model, batch, key, 0, rows_B, [name]).values()
    return dataclasses.replace(given, params=params)


def encoded(context: Context, params) -> Context:
    """The same, encoded. It takes long unless it is jitted."""
    visual = context.model.apply({"params": params}, context.batch, method="visual_tokens")
    given = context.encoder_input
    given = given._replace(images=given.images._replace(visual_BxNxKxD=visual))
    context = dataclasses.replace(context, visual_BxNxKxD=visual, encoder_input=given)
    (context,) = combination.with_encodings({"": context}, params, jax.random.key(0)).values()
    return context
