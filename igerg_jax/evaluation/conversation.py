"""One response to a conversation that someone typed."""

from collections.abc import Sequence
from typing import Any

from igerg_jax.data.pipeline import Picture
from igerg_jax.evaluation.responder import Responder, Turn


def respond(
    responder: Responder,
    turns: Sequence[Turn],
    response_image: Picture | None,
    emotion: str | None = None,
) -> dict[str, Any]:
    """Generates the response to a conversation.

    Args:
      turns: oldest first; the model is given the last `data.context_turns` of them.
      response_image: of the responding turn, or None.
      emotion: name of the emotion to respond with; None = the one seen in that image.

    Returns:
      {"context": [{"text", "seen"}, ...] of the turns that the model was given, "response_image":
      {"seen"} or None, "missing": `missing_face` where neither the face nor an emotion was given,
      else None; "target_emotion" (`emotion`), "sequence_emotion", "response", "score"
      (log-probability, or the beam's score), "judge", "spoken_emotion"}. "seen",
      "sequence_emotion" and "judge" are {emotion: probability}; None if the model has no part that
      predicts it and, but for "judge", if it was given no image.

    Raises:
      UserError: no words, an image that cannot be read, or wrong `generate` settings.
    """
    answer = responder.respond(turns, response_image, emotion)
    turns = list(turns)[-responder.config.data.context_turns :]
    response_seen = answer.seen[len(turns)]
    return {
        "context": [{"text": words, "seen": answer.seen[i]} for i, (words, _) in enumerate(turns)],
        "response_image": None if response_seen is None else {"seen": response_seen},
        "missing": None if emotion or response_image is not None else missing_face(responder),
        "target_emotion": emotion,
        "sequence_emotion": answer.sequence,
        "response": answer.text,
        "score": answer.score,
        "judge": answer.judge,
        "spoken_emotion": answer.spoken,
    }


def missing_face(responder: Responder) -> str | None:
    """What to do if the responder's face was not given; None for a model that is not shown it."""
    if not responder.sees_faces:
        return None
    give = "no face given; show it as one more --image than there are turns"
    return f"{give}, or name an --emotion" if responder.can_be_conditioned else give


def describe(answer: dict[str, Any]) -> str:
    """The result of `respond` for a person to read."""
    lines = []
    for turn in answer["context"]:
        lines += [turn["text"], f"    seen: {likeliest_first(turn['seen'])}"]
    if answer["response_image"]:
        seen = likeliest_first(answer["response_image"]["seen"])
        lines += ["(the responder)", f"    seen: {seen}"]
    if answer["missing"]:
        lines.append(f"(the responder): {answer['missing']}")
    if answer["target_emotion"]:
        lines.append(f"the emotion to respond with: {answer['target_emotion']}")
    if answer["sequence_emotion"]:
        lines.append(f"all images together: {likeliest_first(answer['sequence_emotion'])}")
    lines.append(f"response: {answer['response']}")
    if answer["judge"]:
        lines.append(f"    the judge reads: {likeliest_first(answer['judge'])}")
    return "\n".join(lines)


def likeliest_first(p: dict[str, float] | None) -> str:
    """Emotions and their probabilities on one line."""
    if p is None:
        return "nothing"
    return "  ".join(f"{name} {p[name]:.2f}" for name in sorted(p, key=p.get, reverse=True))
