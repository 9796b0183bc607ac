"""One response to a conversation that someone typed."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from igerg_jax import lexicon
from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS
from igerg_jax.data import pipeline
from igerg_jax.data.tokenizers import Tokenizer
from igerg_jax.decoding import search
from igerg_jax.evaluation.predictions import emotion_probabilities
from igerg_jax.evaluation.samples import by_emotion
from igerg_jax.parallel import sharding
from igerg_jax.setup import Setup, jitted, replicated_key

Turn = tuple[str, str | pathlib.Path | None]  # (words, image file or None)


def respond(
    setup: Setup,
    tokenizer: Tokenizer,
    params: Any,
    turns: Sequence[Turn],
    response_image: str | pathlib.Path | None,
    emotion: str | None = None,
) -> dict[str, Any]:
    """Generates the response to a conversation.

    Args:
      params: on the setup's mesh.
      turns: oldest first; the model is given the last `data.context_turns` of them.
      response_image: file of the responding turn's image, or None.
      emotion: name of the emotion to respond with; None = the one seen in that image.

    Returns:
      {"context": [{"text", "seen"}, ...] of the turns that the model was given, "response_image":
      {"seen"} or None, "target_emotion" (`emotion`), "sequence_emotion", "response", "score"
      (log-probability, or the beam's score), "judge", "spoken_emotion"}. "seen",
      "sequence_emotion" and "judge" are {emotion: probability}, or None where the model was given
      no image.

    Raises:
      UserError: no words, an image that cannot be read, or wrong `generate` settings.
    """
    generate = search.make_respond(setup)
    example = pipeline.single_example(tokenizer, setup.config, turns, response_image)
    turns = list(turns)[-setup.config.data.context_turns :]
    named = {}
    if emotion is not None:
        named["emotion"] = np.eye(NUM_EMOTIONS, dtype=np.float32)[[EMOTIONS.index(emotion)]]
    batch, rows_B = _one_row_per_shard(setup, example | named)
    target_emotion_BxC = batch.pop("emotion", None)
    responses = generate(params, batch, replicated_key(setup), rows_B, target_emotion_BxC)
    probabilities = jitted(setup, emotion_probabilities)(params, batch, responses.tokens_BxT)
    response, probabilities = jax.tree.map(
        lambda x: x[0], jax.device_get((responses, probabilities))
    )
    image_mask_N = example["image_mask"][0]
    text = tokenizer.decode(response.tokens_BxT)
    seen = [
        by_emotion(p_C) if real else None
        for p_C, real in zip(probabilities["images"], image_mask_N, strict=True)
    ]
    return {
        "context": [{"text": words, "seen": seen[i]} for i, (words, _) in enumerate(turns)],
        "response_image": {"seen": seen[len(turns)]} if image_mask_N[len(turns)] else None,
        "target_emotion": emotion,
        "sequence_emotion": by_emotion(probabilities["sequence"]) if image_mask_N.any() else None,
        "response": text,
        "score": float(response.score_B),
        "judge": by_emotion(probabilities["judge"]),
        "spoken_emotion": EMOTIONS[lexicon.label(text)],
    }


def describe(answer: dict[str, Any]) -> str:
    """The result of `respond` for a person to read."""
    lines = []
    for turn in answer["context"]:
        lines += [turn["text"], f"    seen: {_likeliest_first(turn['seen'])}"]
    if answer["response_image"]:
        seen = _likeliest_first(answer["response_image"]["seen"])
        lines += ["(the responder)", f"    seen: {seen}"]
    if answer["target_emotion"]:
        lines.append(f"the emotion to respond with: {answer['target_emotion']}")
    if answer["sequence_emotion"]:
        lines.append(f"all images together: {_likeliest_first(answer['sequence_emotion'])}")
    lines.append(f"response: {answer['response']}")
    lines.append(f"    the judge reads: {_likeliest_first(answer['judge'])}")
    return "\n".join(lines)


def _one_row_per_shard(
    setup: Setup, example: dict[str, np.ndarray]
) -> tuple[dict[str, jax.Array], jax.Array]:
    """A batch on the mesh of one copy of the example per data shard, and their row numbers: 0."""
    placed = sharding.batch_sharding(setup.mesh)
    rows = len(sharding.process_rows(placed, sharding.batch_shards(setup.mesh)))
    copies = {name: np.repeat(array, rows, axis=0) for name, array in example.items()}
    return sharding.to_devices((copies, np.zeros(rows, np.int32)), placed)


def _likeliest_first(p: dict[str, float] | None) -> str:
    if p is None:
        return "no image"
    return "  ".join(f"{name} {p[name]:.2f}" for name in sorted(p, key=p.get, reverse=True))
