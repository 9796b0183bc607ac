"""The emotion of an utterance: what trains the judge.

In the consistency term of `emotional_response` the judge does not read what people wrote but the
decoder's output: wrong words, and mixtures of embeddings. With `mixed_weight` it is also trained on
a surrogate for that.
"""

import jax
import jax.numpy as jnp

from igerg_jax.batch import UNKNOWN
from igerg_jax.constraints import Range
from igerg_jax.models.partitioning import lookup
from igerg_jax.objectives import losses
from igerg_jax.objectives.base import LABELLED_TURNS, WORDS, Context, Objective, Result, one_term
from igerg_jax.objectives.display import Line, Row


class TextEmotion(Objective):
    """Has the judge classify the response; no other objective trains the judge."""

    name = "text_emotion"
    summary = "teach the judge the emotion of labelled utterances"
    needs = (WORDS, LABELLED_TURNS)
    constraints = (Range("mixed_weight", at_least=0),)

    def loss(self, context: Context) -> Result:
        response_BxT = context.batch["response"]
        logits_BxC = context.apply("judge_tokens", response_BxT)
        has_words_B = (response_BxT != context.model.special.pad).any(1)
        labels_B = jnp.where(has_words_B, context.batch["response_emotion"], UNKNOWN)
        read = losses.classification(logits_BxC, labels_B)
        weight = context.settings["mixed_weight"]
        if not weight:
            return one_term(read)
        words_BxT = response_BxT != context.model.special.pad
        mixed_BxC = context.apply("judge_embedded", mixed_embeddings(context), words_BxT)
        mixed = losses.classification(mixed_BxC, labels_B)
        return one_term(read, "words") | one_term(mixed, "mixed", scale=weight)

    def show(self, row: Row) -> list[Line]:
        tokens = row.tokens(row.arrays["response"])
        emotion = int(row.arrays["response_emotion"]) if tokens else UNKNOWN
        return [
            Line("The judge is given", tokens),
            Line("and has to name", [], ((-1, emotion),)),
        ]


def mixed_embeddings(context: Context) -> jax.Array:
    """The judge's embeddings of the response [B, T, J], corrupted by a share m ~ U(0, 0.5) of each.

    A token is replaced by a random one with probability m, and is then mixed with another random
    one, whose part of the embedding is ~ U(0, m).
    """
    table_VxJ = context.params["judge_network"]["embedding"]

    def draws(key: jax.Array, tokens_T: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys = jax.random.split(key, 4)
        share = jax.random.uniform(keys[0], maxval=0.5)
        random_2xT = jax.random.randint(keys[1], (2, *tokens_T.shape), 0, len(table_VxJ))
        replaced_T = jax.random.bernoulli(keys[2], share, tokens_T.shape)
        part_T = share * jax.random.uniform(keys[3], tokens_T.shape)
        return jnp.where(replaced_T, random_2xT[0], tokens_T), random_2xT[1], part_T

    keys_B = context.row_keys("mixed embeddings")
    tokens_BxT, other_BxT, part_BxT = jax.vmap(draws)(keys_B, context.batch["response"])
    own_BxTxJ, other_BxTxJ = lookup(table_VxJ, tokens_BxT), lookup(table_VxJ, other_BxT)
    part_BxTx1 = part_BxT[..., None].astype(own_BxTxJ.dtype)
    return (1 - part_BxTx1) * own_BxTxJ + part_BxTx1 * other_BxTxJ
