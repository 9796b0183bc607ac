"""The emotion of an utterance: what trains the judge."""

import jax.numpy as jnp

from igerg_jax.batch import UNKNOWN
from igerg_jax.objectives import losses
from igerg_jax.objectives.base import LABELLED_TURNS, WORDS, Context, Objective, Result, one_term
from igerg_jax.objectives.display import Line, Row


class TextEmotion(Objective):
    """Has the judge classify the response; no other objective trains the judge."""

    name = "text_emotion"
    summary = "teach the judge the emotion of labelled utterances"
    needs = (WORDS, LABELLED_TURNS)
    trains = ("judge_network",)

    def loss(self, context: Context) -> Result:
        response_BxT = context.batch["response"]
        logits_BxC = context.apply("judge_tokens", response_BxT)
        has_words_B = (response_BxT != context.model.special.pad).any(1)
        labels_B = jnp.where(has_words_B, context.batch["response_emotion"], UNKNOWN)
        return one_term(losses.classification(logits_BxC, labels_B))

    def show(self, row: Row) -> list[Line]:
        tokens = row.tokens(row.arrays["response"])
        emotion = int(row.arrays["response_emotion"]) if tokens else UNKNOWN
        return [
            Line("The judge is given", tokens),
            Line("and has to name", [], ((-1, emotion),)),
        ]


OBJECTIVE = TextEmotion()
