"""What a model predicts for a batch: emotion probabilities, and the counts behind the metrics.

The emotions of images are predicted from images alone, as in the single-modal objectives; responses
are scored from images and words, the decoder conditioned on the emotion that is predicted for the
response's image. Letters as in `igerg_jax.batch`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from igerg_jax import metrics
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
    image_logits_BxNxC, sequence_logits_BxC = _image_logits(model, variables, images)
    response_BxT = batch["response"]
    spoken_BxT = response_BxT != model.special.pad
    words = igerg.text_side(batch, model.special)
    encoded = model.apply(variables, images, words, method="encode")
    hidden_BxTxD = model.apply(
        variables,
        igerg.shift_right(response_BxT, model.special),
        encoded.hidden_BxLxD,
        encoded.mask_BxL,
        igerg.target_emotion(image_logits_BxNxC, igerg.response_image(batch, model.special)),
        method="decode",
    )
    tokens = losses.vocabulary(
        hidden_BxTxD,
        params["token_embedding"],
        response_BxT,
        spoken_BxT,
        model.vocab_chunk_tokens,
    )
    return Predicted(
        batch=batch,
        image_logits_BxNxC=image_logits_BxNxC,
        sequence_logits_BxC=sequence_logits_BxC,
        judge_logits_BxC=model.apply(variables, response_BxT, method="judge_tokens"),
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
    images_BxNxC, sequence_BxC = image_probabilities(model, params, batch)
    judged_BxC = model.apply({"params": params}, tokens_BxT, method="judge_tokens")
    return {"images": images_BxNxC, "sequence": sequence_BxC, "judge": jax.nn.softmax(judged_BxC)}


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
) -> tuple[jax.Array, jax.Array]:
    """Emotion probabilities of (each image [B, N, C], the sequence [B, C]) from images alone."""
    variables = {"params": params}
    images = igerg.image_side(batch, model.apply(variables, batch, method="visual_tokens"))
    logits = _image_logits(model, variables, images)
    return tuple(jax.nn.softmax(x) for x in logits)


def _image_logits(model, variables, images) -> tuple[jax.Array, jax.Array]:
    """Emotion logits of (each image, the sequence), from an encoding of images alone."""
    encoded = model.apply(variables, images, None, method="encode")
    return (
        model.apply(variables, encoded, method="image_emotion_logits"),
        model.apply(variables, encoded, method="sequence_emotion_logits"),
    )
