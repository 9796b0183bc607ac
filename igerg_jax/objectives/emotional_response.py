"""The response, with the emotion that it should carry (the original's "tso").

    MLE + w * softplus(log p(r | e') - log p(r | e)) + lambda(step) * CE(C(e_1..T), y)

and, in stages that follow (configs/preference.py, configs/free_running.py), the terms of
`own_responses`, which learn from responses that the model itself draws.

The decoder is conditioned on the response's emotion. With log p(r | e) the log-probability of the
whole response conditioned on the emotion e, the second term, the contrast, makes the response less
likely under another emotion e', drawn for each example. It is emotions that are contrasted, and not
the faces themselves: with another example's face in place of the response's, words followed the
face no better, and a step paid for a second pass of the encoder (docs/results.md). Some examples
are shown neither the response's image nor its emotion: what is decoded for them is what guidance
steers away from.

In the third term, C is the judge, y the response's emotion, and e_1..T stands for the generated
response in the judge's embedding space: `losses.response` says how it is made of the decoder's
logits. The judge's parameters are held fixed here and it runs without dropout: only the generator
learns from that term.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN
from igerg_jax.constraints import Choice, Range
from igerg_jax.errors import UserError
from igerg_jax.models.igerg import response_image, target_emotion
from igerg_jax.models.partitioning import lookup
from igerg_jax.objectives import losses, own_responses
from igerg_jax.objectives.base import (
    DIALOGUES,
    WORDS,
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
    constraints = (
        Choice("estimator", losses.ESTIMATORS),
        Choice("emotion_source", ("label", "predicted")),
        Range("face_dropout", at_least=0, below=1),
        Range("contrast_weight", at_least=0),
        Range("consistency_weight", at_least=0),
        Range("consistency_start_step"),  # negative: the ramp has begun when training starts
        Range("consistency_ramp_steps", at_least=0),
        Range("temperature_start", above=0),
        Range("temperature_end", above=0),
        Range("temperature_anneal_steps", at_least=0),
        Range("preference_weight", at_least=0),
        Range("preference_beta", above=0),
        Range("policy_weight", at_least=0),
        Range("policy_samples", at_least=2),
        Range("policy_fluency", at_least=0),
        Range("policy_kl", at_least=0),
    )

    def encoder_input(self, context: Context) -> EncoderInput:
        images, rate = context.images, context.settings["face_dropout"]
        if not rate:
            return EncoderInput(context.text, images)
        draw = jax.vmap(lambda key: jax.random.bernoulli(key, rate))
        face_dropped_B = draw(context.row_keys("face dropout"))
        hidden_BxN = response_image(context.batch, context.model.special) & face_dropped_B[:, None]
        images = images._replace(mask_BxN=images.mask_BxN & ~hidden_BxN)
        return EncoderInput(context.text, images, drawn=face_dropped_B)

    def loss(self, context: Context) -> Result:
        response_BxT = context.batch["response"]
        emotion_BxC = conditioning_emotion(context)
        contrasts = bool(context.settings["contrast_weight"])
        hidden_BxTxD, other_hidden_BxTxD = decoded(context, emotion_BxC, with_other=contrasts)
        result = Result({}, {})
        if context.settings["consistency_weight"]:
            tokens, embedded_BxTxJ = likelihood_and_embeddings(context, hidden_BxTxD)
            judged = judged_emotion(context, embedded_BxTxJ)
            weight = consistency_weight(context.settings, context.step)
            result |= one_term(judged, "emotion", scale=weight)
        else:
            tokens = context.token_loss_by_row(hidden_BxTxD, response_BxT)
        if contrasts:
            sums = contrast(context, emotion_BxC, tokens, other_hidden_BxTxD)
            result |= one_term(sums, "contrast", scale=context.settings["contrast_weight"])
        if context.settings["preference_weight"]:
            sums = own_responses.preference(context, emotion_BxC, other_emotion(context))
            result |= one_term(sums, "preference", scale=context.settings["preference_weight"])
        if context.settings["policy_weight"]:
            sums = own_responses.policy(context, emotion_BxC)
            result |= one_term(sums, "policy", scale=context.settings["policy_weight"])
        return one_term(tokens.total(), "tokens") | result

    def reads(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        is_judged = settings["consistency_weight"] or settings["policy_weight"]
        head = ("emotion_head",) if settings["emotion_source"] == "predicted" else ()
        return (*head, "judge_network") if is_judged else head

    def needs_reference(self, settings: Mapping[str, Any]) -> bool:
        return bool(settings["preference_weight"] or settings["policy_weight"])

    def check(self, settings: Mapping[str, Any], model: Mapping[str, Any]) -> None:
        super().check(settings, model)
        for key in ("contrast_weight", "preference_weight"):
            if settings[key] and model["emotion_embedding"] == "none":
                raise UserError(
                    f"objectives.{self.name}.{key}={settings[key]} contrasts emotions that the "
                    "decoder is conditioned on, and with model.emotion_embedding='none' it is "
                    "conditioned on none: set the weight to 0, or the embedding to 'both'"
                )

    def show(self, row: Row) -> list[Line]:
        emotion = ((-1, int(row.arrays["response_emotion"])),)
        return [
            row.encoder_line(),
            *row.decoder_lines(row.arrays["response"]),
            *_conditioning_lines(row),
            Line("so that the judge predicts", [], emotion),
        ]


def _conditioning_lines(row: Row) -> list[Line]:
    """What the decoder is conditioned on, and what is withheld from this row."""
    face_dropped = row.encoder_input.drawn
    if face_dropped:
        return [Line("The response's image and emotion are withheld: no emotion conditions it", [])]
    if row.model.emotion_embedding == "none":
        return []
    if row.settings["emotion_source"] == "label":
        label = ((-1, int(row.arrays["response_emotion"])),)
        return [Line("The decoder is conditioned on the emotion", [], label)]
    response_turn = row.arrays["context_turn"].max() + 1
    image = tuple(pair for pair in row.image_emotions() if pair[0] == response_turn)
    return [Line("The decoder is conditioned on what is seen in the image labelled", [], image)]


def conditioning_emotion(context: Context) -> jax.Array:
    """float32 [B, C]: one-hot labels, or the image head's prediction.

    All 0 where it is unknown or withheld.
    """
    batch, face_dropped_B = context.batch, context.encoder_input.drawn
    if context.settings["emotion_source"] == "label":
        emotion_BxC = jax.nn.one_hot(batch["response_emotion"], NUM_EMOTIONS)
    else:
        logits_BxNxC = context.apply("image_emotion_logits", context.image_encoding)
        shown_BxN = response_image(batch, context.model.special)
        emotion_BxC = target_emotion(jax.lax.stop_gradient(logits_BxNxC), shown_BxN)
    if face_dropped_B is None:
        return emotion_BxC
    return jnp.where(face_dropped_B[:, None], 0.0, emotion_BxC)


def decoded(
    context: Context, emotion_BxC: jax.Array, with_other: bool
) -> tuple[jax.Array, jax.Array | None]:
    """The decoder's output [B, T, D] under an emotion, and under `other_emotion` if that is asked
    for: in one pass, for which the encoder's keys and values are computed once."""
    response_BxT = context.batch["response"]
    if not with_other:
        return context.decode(response_BxT, emotion_BxC), None
    other_BxC = jax.nn.one_hot(other_emotion(context), NUM_EMOTIONS)
    emotion_Bx2xC = jnp.stack([emotion_BxC, other_BxC], axis=1)
    hidden_RxTxD = context.decode(
        jnp.repeat(response_BxT, 2, axis=0), emotion_Bx2xC.reshape(-1, NUM_EMOTIONS)
    )
    hidden_Bx2xTxD = hidden_RxTxD.reshape(-1, 2, *hidden_RxTxD.shape[1:])
    return hidden_Bx2xTxD[:, 0], hidden_Bx2xTxD[:, 1]


def contrast(
    context: Context,
    emotion_BxC: jax.Array,
    tokens: losses.RowSums,
    other_hidden_BxTxD: jax.Array,
) -> losses.Sums:
    """softplus(log p(response | another emotion) - log p(response | its own)).

    Over the labelled examples that are conditioned on an emotion. A response counts as correct if
    it is likelier under that emotion than under the other.

    Args:
      emotion_BxC: `conditioning_emotion`.
      tokens: the responses' likelihood under it.
      other_hidden_BxTxD: the decoder's output under the other emotion.
    """
    response_BxT, label_B = context.batch["response"], context.batch["response_emotion"]
    used_B = (label_B != UNKNOWN) & (emotion_BxC.sum(1) > 0) & (tokens.count_B > 0)
    other = context.token_loss_by_row(other_hidden_BxTxD, response_BxT)
    gap_B = tokens.loss_B - other.loss_B  # log p(other) - log p(own)
    loss_B = jnp.where(used_B, jax.nn.softplus(gap_B), 0.0)
    correct_B = used_B & (gap_B < 0)
    return losses.Sums(*(x_B.sum(dtype=jnp.float32) for x_B in (loss_B, used_B, correct_B)))


def other_emotion(context: Context) -> jax.Array:
    """int32 [B]: drawn uniformly from the six that are not the response's label."""
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 1, NUM_EMOTIONS))
    offset_B = draw(context.row_keys("other emotion"))
    return (context.batch["response_emotion"] + offset_B) % NUM_EMOTIONS


def likelihood_and_embeddings(
    context: Context, hidden_BxTxD: jax.Array
) -> tuple[losses.RowSums, jax.Array]:
    """The response's likelihood, and what the judge is given in its place [B, T, J]."""
    response_BxT = context.batch["response"]
    return losses.response(
        hidden_BxTxD,
        context.params["token_embedding"],
        targets_BxT=response_BxT,
        mask_BxT=response_BxT != context.model.special.pad,
        judge_table_VxJ=fixed_judge(context.params)["embedding"],
        estimator=context.settings["estimator"],
        temperature=temperature(context.settings, context.step),
        rng=context.batch_key("gumbel"),
        chunk_tokens=context.model.vocab_chunk_tokens,
        look_up=lookup,
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
    # `optax.linear_schedule` can neither start before step 0 nor rise at once.
    steps_since_start = step - settings["consistency_start_step"]
    ramp_steps = settings["consistency_ramp_steps"]
    ramp = steps_since_start / ramp_steps if ramp_steps else steps_since_start >= 0
    return settings["consistency_weight"] * jnp.clip(ramp, 0.0, 1.0)


def temperature(settings: Mapping[str, Any], step: jax.Array | int) -> jax.Array:
    """tau(step): geometric from `temperature_start` to `temperature_end`."""
    start, end = settings["temperature_start"], settings["temperature_end"]
    steps = max(settings["temperature_anneal_steps"], 1)
    return optax.exponential_decay(start, steps, end / start, end_value=end)(step)


OBJECTIVE = EmotionalResponse()
