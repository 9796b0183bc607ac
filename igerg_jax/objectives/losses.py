"""Losses as array maths. Each returns sums and a count, so that adding them up over devices and
accumulation steps stays exact; an empty mask gives zeros.

Letters as in `igerg_jax.batch`; J = the judge's width, G = the contrastive width, c = the
positions of one chunk.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# How a response that is not yet a text reaches the judge (see `response`).
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


def classification(logits_xC: jax.Array, labels_x: jax.Array) -> Sums:
    """Softmax cross-entropy over the labelled entries.

    Args:
      logits_xC: float32 [..., C].
      labels_x: int32 [...]; below 0 = unknown, which adds nothing.
    """
    known_x = labels_x >= 0
    nll_x = optax.softmax_cross_entropy_with_integer_labels(
        logits_xC, jnp.maximum(labels_x, 0), where=known_x
    )
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
    table_VxD = _in_dtype_of(hidden_BxTxD, table_VxD)

    def chunk(piece):
        hidden_BxcxD, targets_Bxc, mask_Bxc = piece
        logits_BxcxV = _logits(hidden_BxcxD, table_VxD)
        return _token_nll(logits_BxcxV, targets_Bxc, mask_Bxc)

    chunks = _over_chunks(chunk, (hidden_BxTxD, targets_BxT, mask_BxT), chunk_tokens)
    return _by_row(*chunks, mask_BxT)


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
      rng: key of the Gumbel noise, which "gumbel" alone draws.
      look_up: how rows [B, c, J] of E_c are taken for ids [B, c].

    Raises:
      ValueError: `estimator` is unknown.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator '{estimator}' is not one of {', '.join(ESTIMATORS)}")

    table_VxD = _in_dtype_of(hidden_BxTxD, table_VxD)

    def chunk(piece):
        hidden_BxcxD, targets_Bxc, mask_Bxc, index = piece
        logits_BxcxV = _logits(hidden_BxcxD, table_VxD)
        noisy_BxcxV = logits_BxcxV
        if estimator == "gumbel":
            noisy_BxcxV += jax.random.gumbel(jax.random.fold_in(rng, index), logits_BxcxV.shape)
        embedded_BxcxJ = _embed(noisy_BxcxV, judge_table_VxJ, estimator, temperature, look_up)
        return *_token_nll(logits_BxcxV, targets_Bxc, mask_Bxc), embedded_BxcxJ

    pieces = (hidden_BxTxD, targets_BxT, mask_BxT)
    nll, correct, embedded = _over_chunks(chunk, pieces, chunk_tokens, with_index=True)
    # [chunks, B, c, J] -> [B, T, J]
    embedded = jnp.moveaxis(embedded, 0, 1).reshape(
        hidden_BxTxD.shape[0], -1, judge_table_VxJ.shape[-1]
    )
    length = hidden_BxTxD.shape[1]
    return _by_row(nll, correct, mask_BxT), embedded[:, :length]


def _embed(logits_BxcxV, judge_table_VxJ, estimator: str, temperature, look_up) -> jax.Array:
    if estimator == "expected":
        return _expected(logits_BxcxV, judge_table_VxJ, temperature)
    hard_BxcxJ = look_up(judge_table_VxJ, logits_BxcxV.argmax(-1))
    if estimator == "detached":
        return hard_BxcxJ
    soft_BxcxJ = _expected(logits_BxcxV, judge_table_VxJ, temperature)
    return hard_BxcxJ + soft_BxcxJ - jax.lax.stop_gradient(soft_BxcxJ)


def _expected(logits_BxcxV, judge_table_VxJ, temperature) -> jax.Array:
    p_BxcxV = jax.nn.softmax(logits_BxcxV / temperature)
    return jnp.einsum("bcv,vj->bcj", p_BxcxV, judge_table_VxJ.astype(jnp.float32))


def sigmoid_contrastive(
    image_BxG: jax.Array,
    text_BxG: jax.Array,
    mask_B: jax.Array,
    log_scale: jax.Array,
    bias: jax.Array,
) -> Sums:
    """Sigmoid loss for language-image pre-training (https://arxiv.org/abs/2303.15343, eq. 1).

    Args:
      mask_B: bool; pairs with a missing side are neither a positive nor anyone's negative.

    Returns:
      The sum over pairs of -log sigmoid, the real examples, and those whose likeliest text is
      their own.
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


def _in_dtype_of(hidden_BxTxD: jax.Array, table_VxD: jax.Array) -> jax.Array:
    """Casts the table before the loop over chunks. Inside, a sharded table would be all-gathered
    for every chunk, in float32. Its gradient is summed over the chunks in the same dtype."""
    return table_VxD.astype(hidden_BxTxD.dtype)


def _logits(hidden_BxcxD: jax.Array, table_VxD: jax.Array) -> jax.Array:
    return jnp.einsum("bcd,vd->bcv", hidden_BxcxD, table_VxD, preferred_element_type=jnp.float32)


def _token_nll(logits_BxcxV, targets_Bxc, mask_Bxc) -> tuple[jax.Array, jax.Array]:
    """Summed over a chunk's positions: negative log-likelihood and correct tokens, each [B]."""
    # optax's `where` would be broadcast over V, an array as large as the logits.
    nll_Bxc = optax.softmax_cross_entropy_with_integer_labels(logits_BxcxV, targets_Bxc)
    correct_Bxc = mask_Bxc & (logits_BxcxV.argmax(-1) == targets_Bxc)
    return jnp.where(mask_Bxc, nll_Bxc, 0.0).sum(1), correct_Bxc.sum(1, dtype=jnp.float32)


def _by_row(nll_xB: jax.Array, correct_xB: jax.Array, mask_BxT: jax.Array) -> RowSums:
    """The sums over all chunks of `_token_nll`'s results."""
    return RowSums(nll_xB.sum(0), mask_BxT.sum(1, dtype=jnp.float32), correct_xB.sum(0))


def _over_chunks(function, arrays, chunk_tokens: int, with_index: bool = False):
    """Maps `function` over chunks of axis 1, in order; the backward pass rematerialises them.

    Chunks are cut along positions, not examples: the batch axis stays sharded as it is. The last
    chunk is padded with zeros, so a mask must be among `arrays`.
    """
    length = arrays[0].shape[1]
    chunk_tokens = min(chunk_tokens, length)
    chunks = -(-length // chunk_tokens)

    def cut(x):
        padding = [(0, 0), (0, chunks * chunk_tokens - length)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding).reshape(x.shape[0], chunks, chunk_tokens, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    pieces = tuple(map(cut, arrays))
    if with_index:
        pieces += (jnp.arange(chunks),)
    return jax.lax.map(jax.checkpoint(function), pieces)


def _count(mask: jax.Array) -> jax.Array:
    return mask.sum(dtype=jnp.float32)
