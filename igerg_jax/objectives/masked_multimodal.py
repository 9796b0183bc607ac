"""Masked tokens and every image's emotion, from text and images (the original's "isl_mlm")."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igerg_jax.constraints import Range
from igerg_jax.objectives import base, corruption, losses
from igerg_jax.objectives.base import Context, EncoderInput, Result, one_term
from igerg_jax.objectives.display import Line, Row
from igerg_jax.objectives.image_emotion import classify_images


class MaskedMultimodal(base.Objective):
    """Masks words as BERT does; predicts them, and classifies the images, from both sides."""

    name = "masked_multimodal"
    summary = "fill in masked words and name emotions, from words and images"
    needs = (base.IMAGES, base.WORDS)
    constraints = (
        Range("mask_fraction", at_least=0, below=1),
        Range("max_fraction", above=0, at_most=1),
    )

    def encoder_input(self, context: Context) -> EncoderInput:
        model = context.model
        tokens_BxS, masked_BxS = corruption.mask_tokens(
            context.row_keys("mask"),
            context.batch["context"],
            context.settings["mask_fraction"],
            model.special,
            model.vocab_size,
        )
        text = context.text._replace(tokens_BxS=tokens_BxS)
        return EncoderInput(text, context.images, drawn=masked_BxS)

    def loss(self, context: Context) -> Result:
        images = one_term(classify_images(context, context.encoding), "images")
        return one_term(predict_masked(context), "tokens") | images

    def show(self, row: Row) -> list[Line]:
        target_S, given_S = row.arrays["context"], row.encoder_input.tokens_S
        masked_S = row.encoder_input.drawn
        kinds_S = np.where(masked_S, np.where(given_S == target_S, "kept", "random"), "")
        limit = max_predictions(row.settings, len(target_S))
        position_M = np.flatnonzero(masked_S)[:limit]
        asked = row.tokens(target_S[position_M], row.arrays["context_turn"][position_M])
        return [
            row.encoder_line(kinds_S),
            Line("and has to fill in", asked),
            Line("and to name each image's emotion", [], row.image_emotions()),
        ]


def predict_masked(context: Context) -> losses.Sums:
    """Cross-entropy of the masked tokens, the first `max_predictions` of each row.

    Logits are computed at those positions only, so that the cost of a step is bounded.
    """
    target_BxS, masked_BxS = context.batch["context"], context.encoder_input.drawn
    limit = max_predictions(context.settings, target_BxS.shape[1])
    position_BxM = jnp.argsort(~masked_BxS, axis=1, stable=True)[:, :limit]

    def take(x_BxS: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BxS, position_BxM, axis=1)

    text_BxMxD = jnp.take_along_axis(context.encoding.text_BxSxD, position_BxM[..., None], axis=1)
    hidden_BxMxD = context.apply("masked_token_hidden", text_BxMxD)
    return context.token_loss(hidden_BxMxD, take(target_BxS), take(masked_BxS))


def max_predictions(settings: Mapping[str, Any], length: int) -> int:
    """At most how many of a row's `length` positions are predicted."""
    return math.ceil(settings["max_fraction"] * length)


OBJECTIVE = MaskedMultimodal()
