"""Groups objectives by batch, shares their encoder pass and collects their loss terms.

Objectives of one mixture (`config.data.mixtures`) share a batch. On it they share one pass of the
vision tower and one of the encoder, over the images alone and all of their inputs. Every separate
pass would be another loop to compile and to run, forward and backward.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from igerg_jax.batch import group_of, mixed_groups
from igerg_jax.models.igerg import Encoded, Igerg
from igerg_jax.objectives import OBJECTIVES, active
from igerg_jax.objectives.base import Batch, Context, EncoderInput, Term
from igerg_jax.random_keys import batch_key, named_key

Terms = dict[tuple[str, str], Term]
Metrics = dict[tuple[str, str], tuple[jax.Array, jax.Array]]

_IMAGES_ALONE = ""  # a pseudo-objective, whose encoder input is the images alone


def by_mixture(config: Any) -> dict[str, list[str]]:
    """{mixture whose batch they share, "" = the main one: active objectives}."""
    mixtures = config.data.mixtures
    mixture_of = {name: m for m in mixed_groups(config.data) for name in mixtures[m].objectives}
    groups: dict[str, list[str]] = {}
    for name in active(config):
        groups.setdefault(mixture_of.get(name, ""), []).append(name)
    return groups


def sums(
    config: Any,
    model: Igerg,
    params: Any,
    batch: Batch,
    key: jax.Array,
    step: jax.Array | int,
    rows_B: jax.Array | None = None,
    reference: Any = None,
) -> tuple[Terms, Metrics]:
    """Every active objective's terms and metrics, keyed (objective, name).

    An objective's own randomness depends only on its name. Dropout in a pass that several share
    depends on which they are.

    Args:
      key: of the step.
      rows_B: int32, the examples' places in the global batch; default 0, 1, ..., all of it.
      reference: `Context.reference`.
    """
    if rows_B is None:
        rows_B = jnp.arange(batch["image_mask"].shape[0])
    terms, metrics = {}, {}
    for mixture, names in by_mixture(config).items():
        mixture_batch = group_of(batch, mixture)
        shared_key = named_key(key, f"shared/{mixture}")
        visual_key = batch_key(named_key(shared_key, "visual tokens"), rows_B)
        visual_BxNxKxD = model.apply(
            {"params": params}, mixture_batch, method="visual_tokens", rngs={"dropout": visual_key}
        )
        by_objective = contexts(
            config, model, mixture_batch, key, step, rows_B, names, visual_BxNxKxD
        )
        for name, context in with_encodings(by_objective, params, shared_key).items():
            result = OBJECTIVES[name].loss(dataclasses.replace(context, reference=reference))
            terms |= {(name, part): term for part, term in result.terms.items()}
            metrics |= {(name, part): value for part, value in result.metrics.items()}
    return terms, metrics


def contexts(
    config: Any,
    model: Igerg,
    batch: Batch,
    key: jax.Array,
    step: jax.Array | int,
    rows_B: jax.Array,
    names: Sequence[str],
    visual_BxNxKxD: jax.Array | None = None,
) -> dict[str, Context]:
    """{objective: its context with its encoder input}, before any encoder pass.

    Args:
      batch: of the mixture that the objectives `names` share.
      key: of the step.
    """
    by_objective = {}
    for name in names:
        settings, objective_key = config.objectives[name].to_dict(), named_key(key, name)
        context = Context(model, batch, rows_B, settings, step, objective_key, visual_BxNxKxD)
        encoder_input = OBJECTIVES[name].encoder_input(context)
        by_objective[name] = dataclasses.replace(context, encoder_input=encoder_input)
    return by_objective


def with_encodings(
    contexts: Mapping[str, Context], params: Any, key: jax.Array
) -> dict[str, Context]:
    """The contexts of one batch with their encodings, and that of the images alone."""
    any_context = next(iter(contexts.values()))
    inputs = {_IMAGES_ALONE: EncoderInput(None, any_context.images)}
    inputs |= {n: c.encoder_input for n, c in contexts.items() if c.encoder_input is not None}
    encodings = _encode(any_context, params, inputs, key)
    return {
        name: dataclasses.replace(
            context,
            params=params,
            image_encoding=encodings[_IMAGES_ALONE],
            encoding=encodings.get(name),
        )
        for name, context in contexts.items()
    }


def _encode(
    any_context: Context, params: Any, inputs: Mapping[str, EncoderInput], key: jax.Array
) -> dict[str, Encoded]:
    """The encodings of `inputs`, by the same names, in one pass."""
    sides = [(given.images, given.text) for given in inputs.values()]
    dropout_key = batch_key(named_key(key, "encoder"), any_context.rows_B)
    encodings = any_context.apply("encode_all", sides, params=params, dropout_key=dropout_key)
    return dict(zip(inputs, encodings, strict=True))
