"""Random corruption of token arrays, on the device and with static shapes.

Each row has its own random key, by its place in the global batch, so that its corruption does not
depend on how many devices, hosts or accumulation steps share the batch. Nor does it depend on how
far the row is padded: a token's draws are keyed by its place. Letters as in `igerg_jax.batch`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from igerg_jax.batch import SpecialIds


def mask_tokens(
    keys_B: jax.Array,
    tokens_BxS: jax.Array,
    fraction: float,
    special: SpecialIds,
    vocab_size: int,
) -> tuple[jax.Array, jax.Array]:
    """BERT's masking (https://arxiv.org/abs/1810.04805): 80 % MASK, 10 % random, 10 % kept.

    Each token is chosen with probability `fraction`, EOS and PAD never.

    Returns:
      (int32 [B, S] corrupted tokens, bool [B, S] which were chosen).
    """
    words_BxS = is_word(tokens_BxS, special)

    def row(key, tokens_S, words_S):
        chosen_key, kind_key, token_key = jax.random.split(key, 3)
        chosen_S = words_S & (jax.random.uniform(chosen_key, tokens_S.shape) < fraction)
        kind_S = jax.random.uniform(kind_key, tokens_S.shape)
        random_S = jax.random.randint(token_key, tokens_S.shape, 0, vocab_size)
        new_S = jnp.where(kind_S < 0.8, special.mask, jnp.where(kind_S < 0.9, random_S, tokens_S))
        return jnp.where(chosen_S, new_S, tokens_S).astype(tokens_S.dtype), chosen_S

    return jax.vmap(row)(keys_B, tokens_BxS, words_BxS)


def infill(
    keys_B: jax.Array,
    tokens_BxS: jax.Array,
    turn_BxS: jax.Array,
    fraction: float,
    mean_span_tokens: float,
    special: SpecialIds,
) -> tuple[jax.Array, jax.Array]:
    """BART's text infilling (https://arxiv.org/abs/1910.13461): a span becomes one MASK.

    Span lengths are Poisson; a span of length 0 inserts a MASK, as long as longer spans before or
    after it in the row make room: a row never gets longer. EOS is never hidden. `fraction` of the
    words is hidden in expectation (a little less where spans meet).

    Returns:
      (int32 [B, S] tokens, int32 [B, S] their turns), PAD and 0 on the right.
    """
    cdf = jnp.asarray(_poisson_cdf(mean_span_tokens))
    start_rate = fraction / mean_span_tokens
    length = tokens_BxS.shape[1]

    def row(key, tokens_S, turn_S):
        word_S = is_word(tokens_S, special)
        start_key, length_key = jax.random.split(key)
        start_S = word_S & (jax.random.uniform(start_key, tokens_S.shape) < start_rate)
        span_S = jnp.searchsorted(cdf, jax.random.uniform(length_key, tokens_S.shape))
        at_S = jnp.arange(length)
        end_S = jax.lax.cummax(jnp.where(start_S, at_S + span_S, 0))
        hidden_S = word_S & (at_S < end_S)
        opens_S = hidden_S & ~(jnp.roll(hidden_S, 1).at[0].set(False))
        # Two slots per token: one for a MASK that a span of length 0 inserts, one for itself.
        inserts_S = start_S & (span_S == 0) & ~hidden_S
        removed_S = hidden_S & ~opens_S
        inserts_S &= jnp.cumsum(inserts_S) <= removed_S.sum()
        keep_S = (tokens_S != special.pad) & ~removed_S
        keep_2S = jnp.stack([inserts_S, keep_S], 1).reshape(-1)
        masked_S = jnp.where(hidden_S, special.mask, tokens_S)
        tokens_2S = jnp.stack([jnp.full_like(tokens_S, special.mask), masked_S], 1).reshape(-1)
        # What is kept moves to the left, in order.
        order_S = jnp.argsort(~keep_2S, stable=True)[:length]
        kept_S = keep_2S[order_S]
        new_S = jnp.where(kept_S, tokens_2S[order_S], special.pad)
        return new_S, jnp.where(kept_S, turn_S[order_S // 2], 0)

    return jax.vmap(row)(keys_B, tokens_BxS, turn_BxS)


def shuffle_turns(
    keys_B: jax.Array, tokens_BxS: jax.Array, turn_BxS: jax.Array, special: SpecialIds
) -> tuple[jax.Array, jax.Array]:
    """Puts a row's turns in random order (BART's sentence permutation, with turns).

    Turns are renumbered in their new order: their old numbers would give it away.
    """

    def row(key, tokens_S, turn_S):
        # A turn has at least one token, so there are at most S turns. Of two that draw the same
        # number, the earlier one comes first.
        place_S = jax.random.uniform(key, tokens_S.shape)[turn_S]
        order_S = jnp.argsort(jnp.where(tokens_S == special.pad, 1.0, place_S), stable=True)
        tokens_S, turn_S = tokens_S[order_S], turn_S[order_S]
        begins_S = turn_S != jnp.roll(turn_S, 1)
        turn_S = jnp.cumsum(begins_S.at[0].set(False))
        return tokens_S, jnp.where(tokens_S == special.pad, 0, turn_S).astype(turn_BxS.dtype)

    return jax.vmap(row)(keys_B, tokens_BxS, turn_BxS)


def is_word(tokens: jax.Array, special: SpecialIds) -> jax.Array:
    """bool, True where a token is neither PAD nor EOS."""
    return (tokens != special.pad) & (tokens != special.eos)


def _poisson_cdf(mean: float) -> np.ndarray:
    """P(X <= k) for k = 0, 1, ... until all but 1e-6 is covered."""
    probabilities = [math.exp(-mean)]
    while sum(probabilities) < 1.0 - 1e-6:
        probabilities.append(probabilities[-1] * mean / len(probabilities))
    return np.cumsum(probabilities, dtype=np.float64)[:-1].astype(np.float32)
