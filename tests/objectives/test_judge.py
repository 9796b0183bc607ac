"""What the judge is trained on, and how far the consistency term trusts it."""

import dataclasses

import jax
import numpy as np
import small

from igerg_jax.objectives import OBJECTIVES, emotional_response, text_emotion

CONFIG = small.make_config(objectives__text_emotion__mixed_weight=0.5)
BATCH = small.make_batch(CONFIG, batch_size=64)
PARAMS = small.make_params(small.make_model(CONFIG), BATCH)
TABLE_VxJ = np.asarray(PARAMS["judge_network"]["embedding"])


def read_context(batch, rows_B=None):
    return small.context(CONFIG, batch, "text_emotion", rows_B, PARAMS)


@jax.jit
def mixed_embeddings(batch, rows_B):
    return text_emotion.mixed_embeddings(read_context(batch, rows_B))


def test_mixed_embeddings_stay_nearest_to_the_words_in_most_places():
    mixed_BxTxJ = np.asarray(mixed_embeddings(BATCH, np.arange(64)))
    distance_BxTxV = np.linalg.norm(mixed_BxTxJ[:, :, None] - TABLE_VxJ, axis=-1)
    kept_BxT = distance_BxTxV.argmin(-1) == BATCH["response"]
    assert 0.6 < kept_BxT.mean() < 0.9  # a quarter is replaced on average
    share_B = 1 - kept_BxT.mean(1)
    assert share_B.max() >= 0.5 and (share_B == 0).any(), "examples differ in how much is corrupted"
    moved_BxT = np.abs(mixed_BxTxJ - TABLE_VxJ[BATCH["response"]]).max(-1) > 1e-6
    assert moved_BxT.mean() > 0.9


def test_what_is_mixed_in_depends_on_the_row():
    mixed_BxTxJ = mixed_embeddings(BATCH, np.arange(64))
    last = {name: array[-8:] for name, array in BATCH.items()}
    alone = mixed_embeddings(last, np.arange(56, 64))
    np.testing.assert_array_equal(alone, mixed_BxTxJ[-8:])


def test_the_judge_learns_from_mixed_embeddings():
    def loss(params):
        context = dataclasses.replace(read_context(BATCH), params=params)
        result = OBJECTIVES["text_emotion"].loss(context)
        assert result.terms["mixed"].scale == 0.5
        return result.terms["mixed"].loss_sum

    gradient = jax.jit(jax.grad(loss))(PARAMS)
    touched = {name for name, tree in gradient.items() if small.largest(tree)}
    assert touched == {"judge_network"}


def test_consistency_counts_as_far_as_the_judge_reads_peoples_response():
    config = small.make_config(objectives__emotional_response__consistency_trust=True)
    embedded_BxTxJ = TABLE_VxJ[np.roll(BATCH["response"], 1, axis=0)]
    mask_BxT = BATCH["response"] != small.SPECIAL.pad

    @jax.jit
    def judge(params):
        context = small.context(config, BATCH, "emotional_response", params=params)
        read = context.apply("judge_tokens", BATCH["response"])
        heard = context.apply("judge_embedded", embedded_BxTxJ, mask_BxT)
        judged = emotional_response.judged_emotion(context, embedded_BxTxJ)
        return jax.nn.log_softmax(read), jax.nn.log_softmax(heard), judged

    *log_p, judged = judge(PARAMS)
    read_B, heard_B = (np.asarray(x)[np.arange(64), BATCH["response_emotion"]] for x in log_p)
    trust_B, loss_B = np.exp(read_B), -heard_B
    np.testing.assert_allclose(judged.loss_sum, (trust_B * loss_B).sum(), rtol=1e-5)
    assert judged.count == 64
