"""What a model predicts for a batch: emotion probabilities, and the counts behind the metrics.

The emotions of images are predicted from images alone, as in the single-modal objectives; responses
are scored from images and words, the decoder conditioned on the emotion that is predicted for the
response's image. Emotions that the parameters have no part for are left out. Letters as in
`igerg_jax.batch`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from igerg_jax import metrics
from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN
from igerg_jax.decoding import search, stream
from igerg_jax.decoding.guidance import Guidance, GuidedStream
from igerg_jax.evaluation import uncertainty
from igerg_jax.models import igerg
from igerg_jax.objectives import losses
from igerg_jax.prediction_metrics import Predicted


def batch_counts(
    model: igerg.Igerg, params: Any, batch: Mapping[str, jax.Array]
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """Counts over a batch, to be summed over a split, and figures of each of its windows.

    Returns:
      (counts, windows). Counts: those of `metrics.counts`, and "response_tokens", int32 [V]: how
      often each token occurs. Windows: "nll", float32 [B], of each response in nats; "tokens",
      int32 [B], its length, EOS included; and those of `uncertainty.labels_and_guesses`.
    """
    predicted = predict(model, params, batch)
    occurrences_V = jnp.zeros(model.vocab_size, jnp.int32)
    occurrences_V = occurrences_V.at[batch["response"]].add(predicted.spoken_BxT.astype(jnp.int32))
    counts = metrics.counts(predicted) | {"response_tokens": occurrences_V}
    tokens_B = predicted.spoken_BxT.sum(1, dtype=jnp.int32)
    windows = {"nll": predicted.nll_B, "tokens": tokens_B}
    return counts, windows | uncertainty.labels_and_guesses(predicted)


def predict(model: igerg.Igerg, params: Any, batch: Mapping[str, jax.Array]) -> Predicted:
    """What the model predicts for the images, sequences and responses of a batch."""
    variables = {"params": params}
    images = igerg.image_side(batch, model.apply(variables, batch, method="visual_tokens"))
    logits, seen_BxC, response_BxT = _image_logits(model, params, images), None, batch["response"]
    if "image_emotion" in logits:
        shown_BxN = igerg.response_image(batch, model.special)
        seen_BxC = igerg.target_emotion(logits["image_emotion"], shown_BxN)
    if "judge_network" in params:
        logits["response_emotion"] = model.apply(variables, response_BxT, method="judge_tokens")
    spoken_BxT = response_BxT != model.special.pad
    words = igerg.text_side(batch, model.special)
    encoded = model.apply(variables, images, words, method="encode")
    hidden_BxTxD = model.apply(
        variables,
        igerg.shift_right(response_BxT, model.special),
        encoded.hidden_BxLxD,
        encoded.mask_BxL,
        seen_BxC,
        method="decode",
    )
    tokens = losses.vocabulary(
        hidden_BxTxD,
        params["token_embedding"],
        response_BxT,
        spoken_BxT,
        model.vocab_chunk_tokens,
    )
    for label in [label for label in igerg.EMOTION_PARTS if label not in logits]:
        batch = {**batch, label: jnp.full_like(batch[label], UNKNOWN)}
        logits[label] = jnp.zeros((*batch[label].shape, NUM_EMOTIONS))
    return Predicted(
        batch=batch,
        image_logits_BxNxC=logits["image_emotion"],
        sequence_logits_BxC=logits["sequence_emotion"],
        judge_logits_BxC=logits["response_emotion"],
        spoken_BxT=spoken_BxT,
        nll_B=tokens.loss_B,
        correct_tokens_B=tokens.correct_B,
    )


def emotion_probabilities(
    model: igerg.Igerg, params: Any, batch: Mapping[str, jax.Array], tokens_BxT: jax.Array
) -> dict[str, jax.Array]:
    """Emotion probabilities, float32: "images" [B, N, C], "sequence" [B, C], "judge" [B, C].

    The first two are predicted from the images only; the third is the judge's, of `tokens`.
    """
    found = image_probabilities(model, params, batch)
    if "judge_network" in params:
        judged_BxC = model.apply({"params": params}, tokens_BxT, method="judge_tokens")
        found["judge"] = jax.nn.softmax(judged_BxC)
    return found


def guided_nll(
    model: igerg.Igerg,
    params: Any,
    batch: Mapping[str, jax.Array],
    tokens_BxT: jax.Array,
    guidance: jax.Array,
) -> dict[str, jax.Array]:
    """The likelihood of given responses under guidance, each token given those before it.

    Args:
      tokens_BxT: int32, EOS then PAD.
      guidance: float32 scalar, `generate.guidance`; 0 = none. `generate.guidance_floor` is not
        applied: it excludes many words that people say.

    Returns:
      float32 "nll_B" (nats), of each response's tokens, EOS included, and int32 "tokens_B".
    """
    sources = search.sources(model, params, batch, None, guided=True)
    spoken_BxT = tokens_BxT != model.special.pad
    streams, hidden = [], []
    for encoded, emotion_BxC in sources:
        mask_BxL, hidden_BxLxD = encoded.mask_BxL, encoded.hidden_BxLxD
        inputs_BxT = igerg.shift_right(tokens_BxT, model.special)
        arguments = inputs_BxT, hidden_BxLxD, mask_BxL, emotion_BxC
        hidden_BxTxD = model.apply({"params": params}, *arguments, method="decode")
        streams.append(stream.Stream(model, params, mask_BxL, None, emotion_BxC))
        hidden.append(hidden_BxTxD.swapaxes(0, 1))
    combined = GuidedStream(tuple(streams), Guidance(guidance, 0.0))

    def of_position(inputs):
        hidden, token_B = inputs
        log_p_BxV = combined.log_probabilities(hidden)
        return -jnp.take_along_axis(log_p_BxV, token_B[:, None], axis=1)[:, 0]

    # One position at a time: a few [B, V] rather than [B, T, V].
    nll_TxB = jax.lax.map(of_position, (tuple(hidden), tokens_BxT.T))
    return {"nll_B": jnp.where(spoken_BxT, nll_TxB.T, 0.0).sum(1), "tokens_B": spoken_BxT.sum(1)}


def image_probabilities(
    model: igerg.Igerg, params: Any, batch: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Emotion probabilities, float32, from images alone: "images" [B, N, C], "sequence" [B, C]."""
    images = igerg.image_side(batch, model.apply({"params": params}, batch, method="visual_tokens"))
    names = {"image_emotion": "images", "sequence_emotion": "sequence"}
    logits = _image_logits(model, params, images)
    return {names[label]: jax.nn.softmax(x) for label, x in logits.items()}


def _image_logits(model, params, images) -> dict[str, jax.Array]:
    """Emotion logits from an encoding of images alone, by the names of their labels."""
    encoded = model.apply({"params": params}, images, None, method="encode")
    return {
        label: model.apply({"params": params}, encoded, method=f"{label}_logits")
        for label in ("image_emotion", "sequence_emotion")
        if igerg.EMOTION_PARTS[label] in params
    }
