"""The response, with the emotion that it should carry (the original's "tso").

    MLE + lambda(step) * CE(C(e_1..T), y)

C is the judge, y the response's emotion, and e_1..T stands for the generated response in the
judge's embedding space: `losses.response` says how it is made of the decoder's logits. The
judge's parameters are held fixed here and it runs without dropout: only the generator learns from
the second term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from igerg_jax.batch import UNKNOWN
from igerg_jax.models.partitioning import lookup
from igerg_jax.objectives import losses
from igerg_jax.objectives.base import (
    DIALOGUES,
    WORDS,
    Choice,
    Context,
    EncoderInput,
    Objective,
    Result,
    one_term,
)
from igerg_jax.objectives.display import Line, Row


class EmotionalResponse(Objective):
    """Writes the response from images and context, so that the judge finds its emotion in it."""

    name = "emotional_response"
    summary = "write the response, with the emotion that it should carry"
    needs = (WORDS, DIALOGUES)
    choices = (Choice("estimator", losses.ESTIMATORS),)

    def encoder_input(self, context: Context) -> EncoderInput:
        return EncoderInput(context.text, context.images)

    def loss(self, context: Context) -> Result:
        response_BxT = context.batch["response"]
        hidden_BxTxD = context.decode(response_BxT)
        if not context.settings["consistency_weight"]:
            return one_term(context.token_loss(hidden_BxTxD, response_BxT), "tokens")
        tokens, embedded_BxTxJ = likelihood_and_embeddings(context, hidden_BxTxD)
        emotion = judged_emotion(context, embedded_BxTxJ)
        weight = consistency_weight(context.settings, context.step)
        return one_term(tokens, "tokens") | one_term(emotion, "emotion", scale=weight)

    def show(self, row: Row) -> list[Line]:
        emotion = ((-1, int(row.arrays["response_emotion"])),)
        return [
            row.encoder_line(),
            *row.decoder_lines(row.arrays["response"]),
            Line("in words in which the judge finds", [], emotion),
        ]


def likelihood_and_embeddings(
    context: Context, hidden_BxTxD: jax.Array
) -> tuple[losses.Sums, jax.Array]:
    """The response's likelihood, and what the judge is given in its place [B, T, J]."""
    response_BxT = context.batch["response"]
    return losses.response(
        hidden_BxTxD,
        context.params["token_embedding"],
        response_BxT,
        response_BxT != context.model.special.pad,
        fixed_judge(context.params)["embedding"],
        context.settings["estimator"],
        temperature(context.settings, context.step),
        context.batch_key("gumbel"),
        context.model.vocab_chunk_tokens,
        lookup,
    )


def judged_emotion(context: Context, embedded_BxTxJ: jax.Array) -> losses.Sums:
    """Cross-entropy of the response's emotion, as the fixed judge classifies `embedded`."""
    spoken_BxT = context.batch["response"] != context.model.special.pad
    params = {**context.params, "judge_network": fixed_judge(context.params)}
    logits_BxC = context.apply("judge_embedded", embedded_BxTxJ, spoken_BxT, params=params)
    labels_B = jnp.where(spoken_BxT.any(1), context.batch["response_emotion"], UNKNOWN)
    return losses.classification(logits_BxC, labels_B)


def fixed_judge(params: Mapping[str, Any]) -> Any:
    """The judge's parameters, without a gradient."""
    return jax.lax.stop_gradient(params["judge_network"])


def consistency_weight(settings: Mapping[str, Any], step: jax.Array | int) -> jax.Array:
    """lambda(step): 0 until `consistency_start_step`, then linear to `consistency_weight`."""
    steps_since_start = step - settings["consistency_start_step"]
    ramp_steps = settings["consistency_ramp_steps"]
    ramp = steps_since_start / ramp_steps if ramp_steps else steps_since_start >= 0
    return settings["consistency_weight"] * jnp.clip(ramp, 0.0, 1.0)


def temperature(settings: Mapping[str, Any], step: jax.Array | int) -> jax.Array:
    """tau(step): geometric from `temperature_start` to `temperature_end`."""
    progress = jnp.clip(step / max(settings["temperature_anneal_steps"], 1), 0.0, 1.0)
    ratio = settings["temperature_end"] / settings["temperature_start"]
    return settings["temperature_start"] * ratio**progress
