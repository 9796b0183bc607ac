"""Losses as array maths. Each returns sums and a count, so that adding them up over devices and
accumulation steps stays exact; an empty mask gives zeros.

Letters as in `igerg_jax.batch`; J = the judge's width, G = the contrastive width, c = the
positions of one chunk.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from igerg_jax.models import arithmetic
from igerg_jax.models.partitioning import is_one_cpu

# How the decoder's output distribution is passed to the judge (see `response`).
ESTIMATORS = ("expected", "straight_through", "gumbel", "detached")


class Sums(NamedTuple):
    """float32 scalars: negative log-likelihoods in nats, what was counted, the correct ones."""

    loss_sum: jax.Array
    count: jax.Array
    correct: jax.Array


class RowSums(NamedTuple):
    """The same by example, float32 [B]."""

    loss_B: jax.Array
    count_B: jax.Array
    correct_B: jax.Array

    def total(self) -> Sums:
        """Over all examples."""
        return Sums(*(x_B.sum() for x_B in self))


def classification(logits_xC: jax.Array, labels_x: jax.Array, label_smoothing: float = 0.0) -> Sums:
    """Softmax cross-entropy of logits, float32 [..., C], at labels, int32 [...].

    Args:
      labels_x: those below 0 are unknown and add nothing.
      label_smoothing: the share of the target's probability that all classes divide equally
        (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567).
    """
    known_x = labels_x >= 0
    nll_x = optax.softmax_cross_entropy_with_integer_labels(
        logits_xC, jnp.maximum(labels_x, 0), where=known_x
    )
    if label_smoothing:
        known_logits_xC = jnp.where(known_x[..., None], logits_xC, 0.0)
        uniform_nll_x = -jax.nn.log_softmax(known_logits_xC).mean(-1) * known_x
        nll_x = (1 - label_smoothing) * nll_x + label_smoothing * uniform_nll_x
    correct_x = known_x & (logits_xC.argmax(-1) == labels_x)
    return Sums(nll_x.sum(), _count(known_x), _count(correct_x))


def vocabulary(
    hidden_BxTxD: jax.Array,
    table_VxD: jax.Array,
    targets_BxT: jax.Array,
    mask_BxT: jax.Array,
    chunk_tokens: int,
) -> RowSums:
    """Cross-entropy against the tied embedding; never more than [B, chunk, V] logits exist."""
    tokens = (hidden_BxTxD, table_VxD, targets_BxT, mask_BxT)
    return _over_chunks(*tokens, chunk_tokens, lambda logits_BxcxV, index: None)[0]


def response(
    hidden_BxTxD: jax.Array,
    table_VxD: jax.Array,
    targets_BxT: jax.Array,
    mask_BxT: jax.Array,
    judge_table_VxJ: jax.Array,
    estimator: str,
    temperature: jax.Array,
    rng: jax.Array,
    chunk_tokens: int,
    look_up: Callable[[jax.Array, jax.Array], jax.Array] = operator.getitem,
) -> tuple[RowSums, jax.Array]:
    """`vocabulary`'s sums, and e_1..T, what the judge is given in place of a generated text.

    Both come from the same chunks of logits. With z_t the logits and E_c the judge's embedding
    table, e_t [B, T, J] is by `estimator`

        expected          softmax(z_t / tau) E_c
        straight_through  onehot(argmax z_t) E_c, with the gradient of the line above
        gumbel            as straight_through, with Gumbel noise on z_t
                          (Jang et al. 2017, https://arxiv.org/abs/1611.01144)
        detached          onehot(argmax z_t) E_c without a gradient: the original's released code

    Args:
      judge_table_VxJ: E_c; give it with `stop_gradient`, so that only z_t learns.
      estimator: one of `ESTIMATORS`.
      temperature: tau, a positive scalar.
      rng: key of the Gumbel noise; only "gumbel" draws any.
      look_up: maps E_c and ids [B, c] to rows [B, c, J].
    """

    def embed(logits_BxcxV, index):
        if estimator == "gumbel":
            logits_BxcxV += jax.random.gumbel(jax.random.fold_in(rng, index), logits_BxcxV.shape)
        if estimator != "expected":
            hard_BxcxJ = look_up(judge_table_VxJ, _likeliest(logits_BxcxV))
        if estimator == "detached":
            return hard_BxcxJ
        p_BxcxV = jax.nn.softmax(logits_BxcxV / temperature)
        soft_BxcxJ = jnp.einsum("bcv,vj->bcj", p_BxcxV, judge_table_VxJ.astype(jnp.float32))
        if estimator == "expected":
            return soft_BxcxJ
        return hard_BxcxJ + soft_BxcxJ - jax.lax.stop_gradient(soft_BxcxJ)

    tokens = (hidden_BxTxD, table_VxD, targets_BxT, mask_BxT)
    sums, embedded = _over_chunks(*tokens, chunk_tokens, embed)
    # [chunks, B, c, J] -> [B, T, J]
    batch_size, length, _ = hidden_BxTxD.shape
    embedded = jnp.moveaxis(embedded, 0, 1).reshape(batch_size, -1, judge_table_VxJ.shape[-1])
    return sums, embedded[:, :length]


def _over_chunks(
    hidden_BxTxD, table_VxD, targets_BxT, mask_BxT, chunk_tokens: int, embed: Callable
) -> tuple[RowSums, Any]:
    """Cross-entropy of tokens, and `embed(logits_BxcxV, number)` of every chunk, stacked.

    The backward pass rematerialises the chunks. They are cut along positions, not examples: the
    batch axis stays sharded as it is. The last chunk is padded with zeros, which the mask hides.
    """
    length = hidden_BxTxD.shape[1]
    chunks = -(-length // chunk_tokens)
    chunk_tokens = -(-length // chunks)  # of equal size, so that little is padded
    # Inside the loop, a sharded table would be all-gathered for every chunk, in float32. Its
    # gradient is summed over the chunks in the same dtype.
    table_VxD = table_VxD.astype(hidden_BxTxD.dtype)

    def cut(x):
        padding = [(0, 0), (0, chunks * chunk_tokens - length)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding).reshape(x.shape[0], chunks, chunk_tokens, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    # With one chunk on one CPU, which has the memory, XLA may merge the recomputed logits with the
    # forward pass's (common subexpressions): they are then computed once.
    @functools.partial(jax.checkpoint, prevent_cse=chunks > 1 or not is_one_cpu())
    def chunk(piece):
        hidden_BxcxD, targets_Bxc, mask_Bxc, index = piece
        logits_BxcxV = jnp.einsum(
            "bcd,vd->bcv", hidden_BxcxD, table_VxD, preferred_element_type=jnp.float32
        )
        # optax's `where` would be broadcast over V, an array as large as the logits.
        nll_Bxc = optax.softmax_cross_entropy_with_integer_labels(logits_BxcxV, targets_Bxc)
        correct_Bxc = mask_Bxc & (_likeliest(logits_BxcxV) == targets_Bxc)
        nll_B = jnp.where(mask_Bxc, nll_Bxc, 0.0).sum(1)
        return nll_B, correct_Bxc.sum(1, dtype=jnp.float32), embed(logits_BxcxV, index)

    pieces = (*map(cut, (hidden_BxTxD, targets_BxT, mask_BxT)), jnp.arange(chunks))
    nll_xB, correct_xB, embedded = jax.lax.map(chunk, pieces)
    count_B = mask_BxT.sum(1, dtype=jnp.float32)
    return RowSums(nll_xB.sum(0), count_B, correct_xB.sum(0)), embedded


def _likeliest(logits_xV: jax.Array) -> jax.Array:
    """The argmax over the last axis, int32."""
    # The softmax has computed the maximum already. The vocabulary's loss and gradient take 12.6 ms
    # so, and 19.0 with `jnp.argmax` (16 x 40 tokens, 2,048 words, width 128, one core).
    return arithmetic.argmax(logits_xV) if is_one_cpu() else logits_xV.argmax(-1)


def sigmoid_contrastive(
    image_BxG: jax.Array,
    text_BxG: jax.Array,
    mask_B: jax.Array,
    log_scale: jax.Array,
    bias: jax.Array,
) -> Sums:
    """Sigmoid loss for language-image pre-training (https://arxiv.org/abs/2303.15343, eq. 1).

    The loss is summed over pairs; `count` is of examples, `correct` of those whose likeliest text
    is their own. Where `mask_B` (bool) is False, a pair is neither a positive nor a negative.
    """
    image_BxG, text_BxG = _unit(image_BxG), _unit(text_BxG)
    logits_BxB = image_BxG @ text_BxG.T * jnp.exp(log_scale) + bias
    sign_BxB = 2.0 * jnp.eye(logits_BxB.shape[0]) - 1.0
    pair_BxB = mask_B[:, None] & mask_B[None, :]
    loss = -jnp.where(pair_BxB, jax.nn.log_sigmoid(sign_BxB * logits_BxB), 0.0).sum()
    best_B = jnp.where(pair_BxB, logits_BxB, -jnp.inf).argmax(-1)
    correct_B = mask_B & (best_B == jnp.arange(mask_B.shape[0]))
    return Sums(loss, _count(mask_B), _count(correct_B))


def _unit(x_BxG: jax.Array) -> jax.Array:
    square = (x_BxG.astype(jnp.float32) ** 2).sum(-1, keepdims=True)
    return x_BxG * jax.lax.rsqrt(square + 1e-12)


def _count(mask: jax.Array) -> jax.Array:
    return mask.sum(dtype=jnp.float32)
