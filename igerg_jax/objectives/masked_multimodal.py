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
    trains = ("emotion_head", "masked_token_head")
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
        tokens = (target_S != row.model.special.pad).sum()
        position_M = np.flatnonzero(masked_S)[: max_predictions(row.settings, int(tokens))]
        asked = row.tokens(target_S[position_M], row.arrays["context_turn"][position_M])
        return [
            row.encoder_line(kinds_S),
            Line("and has to fill in", asked),
            Line("and to name each image's emotion", [], row.image_emotions()),
        ]


def predict_masked(context: Context) -> losses.Sums:
    """Cross-entropy of the masked tokens, the first `max_fraction` of each row's tokens.

    Logits are computed for that fraction of a full row only, so that the cost of a step is bounded.
    (Counted in each row's own tokens, what is predicted does not depend on padding.)
    """
    target_BxS, masked_BxS = context.batch["context"], context.encoder_input.drawn
    limits = [max_predictions(context.settings, n) for n in range(target_BxS.shape[1] + 1)]
    tokens_Bx1 = (target_BxS != context.model.special.pad).sum(1, keepdims=True)
    limit_Bx1 = jnp.asarray(limits)[tokens_Bx1]
    masked_BxS = masked_BxS & (jnp.cumsum(masked_BxS, axis=1) <= limit_Bx1)
    position_BxM = jnp.argsort(~masked_BxS, axis=1, stable=True)[:, : limits[-1]]

    def take(x_BxS: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BxS, position_BxM, axis=1)

    text_BxMxD = jnp.take_along_axis(context.encoding.text_BxSxD, position_BxM[..., None], axis=1)
    hidden_BxMxD = context.apply("masked_token_hidden", text_BxMxD)
    return context.token_loss(hidden_BxMxD, take(target_BxS), take(masked_BxS))


def max_predictions(settings: Mapping[str, Any], length: int) -> int:
    """At most how many words of a row of `length` tokens are predicted."""
    return math.ceil(settings["max_fraction"] * length)


OBJECTIVE = MaskedMultimodal()
