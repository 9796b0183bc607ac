"""The pre-training objectives: one function each, and the dict that names them.

    objective(model, params, batch, rng, settings, step) -> terms, metrics

`batch` is the contract's dict, with the entries that `annotate` adds: an objective says in
`READINGS` what the encoder is to read for it, and finds it read. Readings of the same form are
one pass of the encoder over a batch as many times as large: a pass is a loop of its own, forward
and backward, to compile and to run. `settings` are the keys of `config.objectives.<name>`, `step`
an int32 scalar. Both results map names to (sum, count): the
loss is `weight * sum over terms of scale * loss_sum / count`, with counts over the global batch.
An objective may have two terms, since a mean over tokens and a mean over images cannot share a
count; a metric's value is sum / count. Letters as in `igerg_jax.batch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igerg_jax.batch import mixed_groups
from igerg_jax.errors import UserError
from igerg_jax.models.igerg import Encoded, ImageSide, TextSide, shift_right, text_side
from igerg_jax.models.partitioning import by_slice, lookup
from igerg_jax.objectives import corruption, losses

Batch = Mapping[str, jax.Array]

# Where the contrastive loss's negatives come from (see `image_text_contrastive`).
NEGATIVES = ("batch", "slice")


class Term(NamedTuple):
    """A part of a loss: float32 scalars, worth scale * loss_sum / count."""

    loss_sum: jax.Array
    count: jax.Array
    scale: jax.Array | float = 1.0


Metrics = dict[str, tuple[jax.Array, jax.Array]]
Result = tuple[dict[str, Term], Metrics]


class Reading(NamedTuple):
    """What an objective has the encoder read: words, with the images or without."""

    words: TextSide
    with_images: bool
    chosen_BxS: jax.Array | None = None  # which words were masked, where that is asked


def annotate(
    model, params, batch: Batch, rng: jax.Array, readings: Mapping[str, Reading]
) -> dict[str, Any]:
    """Adds what the objectives share: one look at the images, and what the encoder makes of them.

    Args:
      rng: key of the dropout in what is shared.
      readings: by objective, as `READINGS` makes them; the batch has `row` (see `numbered`).

    Returns:
      The batch with `visual`, the visual tokens [B, N, K, D]; `seen`, the encoding of the images
      without words; `reading`, what was given; and `read`, {objective: its encoding}.
    """
    batch = dict(batch)
    batch["visual"] = _apply(model, params, "see", batch, dropout=_first_row(rng, batch))
    images = ImageSide(batch["visual"], batch["image_mask"], batch["image_turn"])
    key = _first_row(rng, batch)
    batch["seen"] = _encode(model, params, images, None, jax.random.fold_in(key, 0))
    batch["reading"], batch["read"] = readings, {}
    for with_images in (False, True):
        names = [name for name, r in readings.items() if r.with_images == with_images]
        if names:
            words = _interleave([readings[name].words for name in names])
            repeated = _interleave([images] * len(names)) if with_images else None
            fold = jax.random.fold_in(key, 1 + with_images)
            encoded = _encode(model, params, repeated, words, fold)
            batch["read"] |= dict(zip(names, _divide(encoded, len(names)), strict=True))
    return batch


def numbered(batch: Batch) -> dict[str, jax.Array]:
    """The batch with `row` int32 [B], an example's place in the global batch.

    It keys the example's randomness, and is kept where the batch has it already (as a slice of a
    larger batch does).
    """
    return {"row": jnp.arange(batch["image_mask"].shape[0])} | dict(batch)


def read_denoising(model, batch: Batch, rng, settings) -> Reading:
    """The context with spans masked and turns shuffled (BART)."""
    tokens_BxS, turn_BxS = corruption.shuffle_turns(
        row_keys(jax.random.fold_in(rng, 0), batch),
        batch["context"],
        batch["context_turn"],
        model.special,
    )
    tokens_BxS, turn_BxS = corruption.infill(
        row_keys(jax.random.fold_in(rng, 1), batch),
        tokens_BxS,
        turn_BxS,
        settings["mask_fraction"],
        settings["mean_span_tokens"],
        model.special,
    )
    return Reading(TextSide(tokens_BxS, turn_BxS, tokens_BxS != model.special.pad), False)


def read_masked(model, batch: Batch, rng, settings) -> Reading:
    """The images, and the context with some words masked."""
    target_BxS = batch["context"]
    tokens_BxS, chosen_BxS = corruption.mask_tokens(
        row_keys(rng, batch),
        target_BxS,
        settings["mask_fraction"],
        model.special,
        model.vocab_size,
    )
    words = TextSide(tokens_BxS, batch["context_turn"], target_BxS != model.special.pad)
    return Reading(words, True, chosen_BxS)


def read_all(model, batch: Batch, rng, settings) -> Reading:
    """The images and the context as they are."""
    return Reading(text_side(batch, model.special), True)


def read_words(model, batch: Batch, rng, settings) -> Reading:
    """The context as it is, without the images."""
    return Reading(text_side(batch, model.special), False)


# What the encoder reads for an objective, beside the images alone.
READINGS: dict[str, Callable[..., Reading]] = {
    "text_denoising": read_denoising,
    "masked_multimodal": read_masked,
    "emotional_response": read_all,
    "image_text_contrastive": read_words,
}


def image_emotion(model, params, batch: Batch, rng, settings, step) -> Result:
    """Each image's emotion, in an image sequence (the original's "isl")."""
    logits_BxNxC = _apply(model, params, "image_emotion_logits", batch["seen"])
    labels_BxN = jnp.where(batch["image_mask"], batch["image_emotion"], -1)
    return _one_term(losses.classification(logits_BxNxC, labels_BxN))


def sequence_emotion(model, params, batch: Batch, rng, settings, step) -> Result:
    """The emotion of the image sequence as a whole, from CLS (the original's "cls")."""
    logits_BxC = _apply(model, params, "sequence_emotion_logits", batch["seen"])
    labels_B = jnp.where(batch["image_mask"].any(1), batch["sequence_emotion"], -1)
    return _one_term(losses.classification(logits_BxC, labels_B))


def text_denoising(model, params, batch: Batch, rng, settings, step) -> Result:
    """Rebuilds the context from spans masked and turns shuffled (BART)."""
    target_BxS = batch["context"]
    encoded = batch["read"]["text_denoising"]
    hidden_BxSxD = _decode(model, params, encoded, target_BxS, batch, rng)
    return _one_term(_vocabulary(model, params, hidden_BxSxD, target_BxS))


def text_emotion(model, params, batch: Batch, rng, settings, step) -> Result:
    """Trains the judge on labelled utterances: the response's words, and its emotion."""
    logits_BxC = _apply(model, params, "judge_tokens", batch["response"])
    spoken_B = (batch["response"] != model.special.pad).any(1)
    labels_B = jnp.where(spoken_B, batch["response_emotion"], -1)
    return _one_term(losses.classification(logits_BxC, labels_B))


def masked_multimodal(model, params, batch: Batch, rng, settings, step) -> Result:
    """Masked tokens, and every image's emotion, from both sides (the original's "isl_mlm")."""
    target_BxS = batch["context"]
    encoded, chosen_BxS = (
        batch["read"]["masked_multimodal"],
        batch["reading"]["masked_multimodal"].chosen_BxS,
    )
    # Only the chosen positions meet the vocabulary, up to `max_fraction` of S.
    most = math.ceil(settings["max_fraction"] * target_BxS.shape[1])
    place_BxM = jnp.argsort(~chosen_BxS, axis=1, stable=True)[:, :most]
    text_BxMxD = jnp.take_along_axis(encoded.text_BxSxD, place_BxM[..., None], axis=1)
    target_BxM = jnp.take_along_axis(target_BxS, place_BxM, axis=1)
    chosen_BxM = jnp.take_along_axis(chosen_BxS, place_BxM, axis=1)
    hidden_BxMxD = _apply(model, params, "masked_token_hidden", text_BxMxD)
    tokens, tokens_metrics = _one_term(
        _vocabulary(model, params, hidden_BxMxD, target_BxM, chosen_BxM), "tokens"
    )
    logits_BxNxC = _apply(model, params, "image_emotion_logits", encoded)
    labels_BxN = jnp.where(batch["image_mask"], batch["image_emotion"], -1)
    images, images_metrics = _one_term(losses.classification(logits_BxNxC, labels_BxN), "images")
    return tokens | images, tokens_metrics | images_metrics


def emotional_response(model, params, batch: Batch, rng, settings, step) -> Result:
    """The response, and, as the judge reads it, the response's emotion (the original's "tso").

    MLE + lambda(step) * CE(C(e_1..T), y), with e_t by `settings["estimator"]` (see
    `losses.ResponsePass`). The judge's parameters are held fixed here, and it is run without
    dropout: only the generator learns from the second term.
    """
    encoded = batch["read"]["emotional_response"]
    target_BxT = batch["response"]
    mask_BxT = target_BxT != model.special.pad
    hidden_BxTxD = _decode(model, params, encoded, target_BxT, batch, rng)
    if not settings["consistency_weight"]:
        return _one_term(_vocabulary(model, params, hidden_BxTxD, target_BxT), "tokens")
    judge = jax.lax.stop_gradient(params["judge_network"])
    walk = losses.response(
        hidden_BxTxD,
        params["token_embedding"],
        target_BxT,
        mask_BxT,
        judge["embedding"],
        settings["estimator"],
        temperature(settings, step),
        jax.random.fold_in(_first_row(rng, batch), 2),
        model.vocab_chunk_tokens,
        lookup,
    )
    fixed = {**params, "judge_network": judge}
    logits_BxC = _apply(model, fixed, "judge_embedded", walk.embedded_BxTxJ, mask_BxT)
    labels_B = jnp.where(mask_BxT.any(1), batch["response_emotion"], -1)
    terms, metrics = _one_term((walk.nll_sum, walk.count, walk.correct), "tokens")
    emotion, emotion_metrics = _one_term(losses.classification(logits_BxC, labels_B), "emotion")
    emotion["emotion"] = emotion["emotion"]._replace(scale=consistency_weight(settings, step))
    return terms | emotion, metrics | emotion_metrics


def image_text_contrastive(model, params, batch: Batch, rng, settings, step) -> Result:
    """Binds a window's images to its words (sigmoid loss).

    With `settings["negatives"]` "batch" every other pair of the global batch (of an accumulation
    step's part of it) is a negative. With "slice" those of the same slice are, so that of several
    slices none sends its vectors to the others; the loss then depends on `mesh.dcn`, and on
    nothing else of the mesh.
    """
    read = batch["read"]["image_text_contrastive"]
    vectors = _apply(model, params, "contrastive_vectors", batch["seen"], read)
    image_BxG, text_BxG, log_scale, bias = vectors
    both_B = batch["image_mask"].any(1) & (batch["context"] != model.special.pad).any(1)
    if settings["negatives"] == "batch":
        return _one_term(losses.sigmoid_contrastive(image_BxG, text_BxG, both_B, log_scale, bias))
    parts = map(by_slice, (image_BxG, text_BxG, both_B))
    each = jax.vmap(losses.sigmoid_contrastive, (0, 0, 0, None, None))(*parts, log_scale, bias)
    return _one_term(tuple(x.sum() for x in each))


OBJECTIVES: dict[str, Callable[..., Result]] = {
    "image_emotion": image_emotion,
    "sequence_emotion": sequence_emotion,
    "text_denoising": text_denoising,
    "text_emotion": text_emotion,
    "masked_multimodal": masked_multimodal,
    "emotional_response": emotional_response,
    "image_text_contrastive": image_text_contrastive,
}


def active(config: Any) -> list[str]:
    """Names of the objectives with a weight, in the order of `OBJECTIVES`."""
    return [name for name in OBJECTIVES if config.objectives[name].weight]


def by_group(config: Any) -> dict[str, list[str]]:
    """{mixture whose batch they share, "" = the main one: active objectives}."""
    mixtures = config.data.mixtures
    group_by = {name: g for g in mixed_groups(config.data) for name in mixtures[g].objectives}
    groups: dict[str, list[str]] = {}
    for name in active(config):
        groups.setdefault(group_by.get(name, ""), []).append(name)
    return groups


def check(config: Any) -> None:
    """Raises UserError where the objectives' settings make no loss; the message names the key."""
    if not active(config):
        raise UserError("every objective's weight is 0; there is nothing to train")
    choices = {
        "emotional_response.estimator": losses.ESTIMATORS,
        "image_text_contrastive.negatives": NEGATIVES,
    }
    for key, known in choices.items():
        objective, setting = key.split(".")
        value = config.objectives[objective][setting]
        if value not in known:
            raise UserError(f"objectives.{key} '{value}' is not one of {', '.join(known)}")
    if config.objectives.image_text_contrastive.negatives == "slice" and config.mesh.dcn == -1:
        raise UserError(
            "mesh.dcn=-1: objectives.image_text_contrastive.negatives 'slice' makes the loss "
            "depend on the number of slices; give that number"
        )


def consistency_weight(settings: Mapping, step: jax.Array) -> jax.Array:
    """lambda(step): 0 until `consistency_start_step`, then linear to `consistency_weight`."""
    since, ramp_steps = (
        step - settings["consistency_start_step"],
        settings["consistency_ramp_steps"],
    )
    ramp = since / ramp_steps if ramp_steps else since >= 0
    return settings["consistency_weight"] * jnp.clip(ramp, 0.0, 1.0)


def temperature(settings: Mapping, step: jax.Array) -> jax.Array:
    """tau(step): geometric from `temperature_start` to `temperature_end`."""
    done = jnp.clip(step / max(settings["temperature_anneal_steps"], 1), 0.0, 1.0)
    ratio = settings["temperature_end"] / settings["temperature_start"]
    return settings["temperature_start"] * ratio**done


def row_keys(rng: jax.Array, batch: Batch) -> jax.Array:
    """One key an example, from its place in the global batch.

    Always threefry's, whatever `train.prng` is: what is masked must not depend on the mesh.
    """
    rng = jax.random.wrap_key_data(jax.random.key_data(rng)[:2], impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, batch["row"])


def _first_row(rng: jax.Array, batch: Batch) -> jax.Array:
    """A key for noise over a whole (micro-)batch."""
    return jax.random.fold_in(rng, batch["row"][0])


def _apply(model, params, method: str, *args, dropout: jax.Array | None = None):
    rngs = None if dropout is None else {"dropout": dropout}
    return model.apply({"params": params}, *args, method=method, rngs=rngs)


def _encode(model, params, images: ImageSide | None, words: TextSide | None, key: jax.Array):
    return _apply(model, params, "encode", images, words, dropout=key)


def _interleave(sides: list) -> Any:
    """[B, ...] R times to [B * R, ...]: a row's readings follow each other on its device."""
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1).reshape(-1, *x[0].shape[1:]), *sides)


def _divide(encoded: Encoded, parts: int) -> list[Encoded]:
    """The inverse of `_interleave`."""
    whole = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]), encoded)
    return [jax.tree.map(lambda x, i=i: x[:, i], whole) for i in range(parts)]


def _decode(model, params, encoded, target_BxT, batch, rng) -> jax.Array:
    tokens_BxT = shift_right(target_BxT, model.special)
    key = jax.random.fold_in(_first_row(rng, batch), 1)
    return _apply(
        model, params, "decode", tokens_BxT, encoded.hidden_BxLxD, encoded.mask_BxL, dropout=key
    )


def _vocabulary(model, params, hidden_BxLxD, target_BxL, mask_BxL=None) -> tuple:
    if mask_BxL is None:
        mask_BxL = target_BxL != model.special.pad
    return losses.vocabulary(
        hidden_BxLxD, params["token_embedding"], target_BxL, mask_BxL, model.vocab_chunk_tokens
    )


def _one_term(result: tuple[jax.Array, ...], name: str = "") -> Result:
    """A term and its accuracy out of a loss's (sum, count, correct)."""
    loss_sum, count, correct = result
    accuracy = f"{name}_accuracy" if name else "accuracy"
    return {name: Term(loss_sum, count)}, {accuracy: (correct, count)}
