"""Two terms of `emotional_response` that learn from responses that the model itself draws.

p is the model, q the reference: the model as training started. Both are given the context with all
of its images, and the decoder is conditioned on the response's emotion e.

`preference` (DPO, Rafailov et al. 2023, https://arxiv.org/abs/2305.18290): of two responses that q
draws, w for e and l for another emotion, w is to be preferred,

    -log sigmoid(beta * ((log p(w) - log q(w)) - (log p(l) - log q(l))))

`policy` (RLOO, Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740): p draws K responses, and
each one's reward, less the mean of the others', weights the gradient of its log p. The reward is

    log judge(e | r) + fluency * log q(r) / length - kl * (log p(r) - log q(r))

The judge is that of q. Letters as in `igerg_jax.batch`; K = responses drawn for a row.
"""

import dataclasses

import jax
import jax.numpy as jnp

from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN
from igerg_jax.models.igerg import shift_right
from igerg_jax.objectives import losses
from igerg_jax.objectives.base import Context
from igerg_jax.objectives.sampling import sample


def preference(context: Context, emotion_BxC: jax.Array, other_B: jax.Array) -> losses.Sums:
    """DPO over the examples that are conditioned on their label. "Correct": w has the advantage.

    Args:
      emotion_BxC: what the decoder is conditioned on.
      other_B: the emotions that the dispreferred responses are drawn for.
    """
    reference, other_BxC = at_reference(context), jax.nn.one_hot(other_B, NUM_EMOTIONS)
    drawn_BxKxT = draw(reference, jnp.stack([emotion_BxC, other_BxC], 1), "preference")
    p_BxK, q_BxK = (log_p(at, drawn_BxKxT, emotion_BxC) for at in (context, reference))
    advantage_BxK = p_BxK - q_BxK
    margin_B = context.settings["preference_beta"] * (advantage_BxK[:, 0] - advantage_BxK[:, 1])
    return _sums(_used(context), dpo(margin_B), margin_B > 0)


def policy(context: Context, emotion_BxC: jax.Array) -> losses.Sums:
    """RLOO over those examples. "Correct": the share of a row's K responses in which the judge
    finds the emotion."""
    settings, reference = context.settings, at_reference(context)
    label_B = context.batch["response_emotion"]
    count = settings["policy_samples"]
    drawn_BxKxT = draw(context, jnp.repeat(emotion_BxC[:, None], count, axis=1), "policy")
    p_BxK, q_BxK = (log_p(at, drawn_BxKxT, emotion_BxC) for at in (context, reference))
    judged_RxC = reference.apply("judge_tokens", drawn_BxKxT.reshape(p_BxK.size, -1))
    log_judge_BxKxC = jax.nn.log_softmax(judged_RxC).reshape(*p_BxK.shape, NUM_EMOTIONS)
    of_label_Bx1x1 = jnp.maximum(label_B, 0)[:, None, None]  # UNKNOWN is not used
    judge_BxK = jnp.take_along_axis(log_judge_BxKxC, of_label_Bx1x1, axis=2)[..., 0]
    length_BxK = (drawn_BxKxT != context.model.special.pad).sum(2)
    fluency_BxK = settings["policy_fluency"] * q_BxK / length_BxK
    reward_BxK = judge_BxK + fluency_BxK - settings["policy_kl"] * (p_BxK - q_BxK)
    found_BxK = log_judge_BxKxC.argmax(2) == label_B[:, None]
    return _sums(_used(context), rloo(p_BxK, reward_BxK), found_BxK.mean(1))


def dpo(margin_B: jax.Array) -> jax.Array:
    """-log sigmoid of beta times what the model's log-ratio of w exceeds that of l by."""
    return jax.nn.softplus(-margin_B)


def rloo(log_p_BxK: jax.Array, reward_BxK: jax.Array) -> jax.Array:
    """float32 [B]; its gradient is, on average over the draws, that of minus the expected reward.

    The baseline of each response is the mean reward of the row's other K - 1.
    """
    count = reward_BxK.shape[1]
    others_BxK = (reward_BxK.sum(1, keepdims=True) - reward_BxK) / (count - 1)
    advantage_BxK = jax.lax.stop_gradient(reward_BxK - others_BxK)
    return -(advantage_BxK * log_p_BxK).mean(1)


def at_reference(context: Context) -> Context:
    """The same inputs, encoded with the reference's parameters; no gradient, no dropout."""
    params = context.params if context.reference is None else context.reference
    params = jax.lax.stop_gradient(params)
    given = context.encoder_input
    visual = context.apply("visual_tokens", context.batch, params=params)
    images = given.images._replace(visual_BxNxKxD=visual)
    encoding = context.apply("encode", images, given.text, params=params)
    return dataclasses.replace(context, params=params, encoding=encoding)


def log_p(context: Context, tokens_BxKxT: jax.Array, emotion_BxC: jax.Array) -> jax.Array:
    """float32 [B, K]: the log-probability of K responses per row, EOS included, in nats."""
    rows, count, length = tokens_BxKxT.shape
    tokens_RxT = tokens_BxKxT.reshape(rows * count, length)
    hidden_RxTxD = context.apply(
        "decode",
        shift_right(tokens_RxT, context.model.special),
        context.encoding.hidden_BxLxD,
        context.encoding.mask_BxL,
        jnp.repeat(emotion_BxC, count, axis=0),
    )
    return -context.token_loss_by_row(hidden_RxTxD, tokens_RxT).loss_B.reshape(rows, count)


def draw(context: Context, emotion_BxKxC: jax.Array, name: str) -> jax.Array:
    """int32 [B, K, T]: K responses per row, for K emotions. `name` is that of the draw."""
    rows, count, _ = emotion_BxKxC.shape
    keys_BxK = jax.vmap(lambda key: jax.random.split(key, count))(context.row_keys(name))
    tokens_RxT = sample(
        context.model,
        context.params,
        jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), context.encoding),
        emotion_BxKxC.reshape(rows * count, -1),
        keys_BxK.reshape(-1),
        max_tokens=context.batch["response"].shape[1],
    )
    return tokens_RxT.reshape(rows, count, -1)


def _used(context: Context) -> jax.Array:
    """bool [B]: labelled, neither face nor emotion withheld, and with a context to answer."""
    pad = context.model.special.pad
    has_words_B = (context.batch["context"] != pad).any(1)
    labelled_B = context.batch["response_emotion"] != UNKNOWN
    dropped_B = context.encoder_input.drawn
    used_B = labelled_B & has_words_B
    return used_B if dropped_B is None else used_B & ~dropped_B


def _sums(used_B: jax.Array, loss_B: jax.Array, correct_B: jax.Array) -> losses.Sums:
    loss_B = jnp.where(used_B, loss_B, 0.0)
    return losses.Sums(*(x.sum(dtype=jnp.float32) for x in (loss_B, used_B, used_B * correct_B)))
