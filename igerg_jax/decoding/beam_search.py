"""Beam search over a decoder stream. Letters as in `igerg_jax.decoding.search`; here also
K beams (not visual tokens), J candidates per beam, and P = 2K.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igerg_jax.batch import SpecialIds
from igerg_jax.decoding.limits import Limits, allowed
from igerg_jax.decoding.strategies import Beam
from igerg_jax.decoding.stream import Started
from igerg_jax.models.partitioning import top_k


class Hypotheses(NamedTuple):
    """A beam search's finished hypotheses, best first; a score of -inf = there is none."""

    tokens_BxKxT: jax.Array
    log_probability_BxK: jax.Array
    score_BxK: jax.Array


class BeamState(NamedTuple):
    """K live hypotheses a row, and the best that have ended."""

    position: jax.Array  # int32 scalar: tokens chosen
    past: Any  # of the stream
    paths_BxKxT: jax.Array  # int32: where `past` has a hypothesis's positions: see `DecodingStep`
    tokens_BxKxT: jax.Array
    log_p_BxK: jax.Array  # -inf = no such beam
    ended: Hypotheses
    done_B: jax.Array


def beam_search(
    started: Started, special: SpecialIds, strategy: Beam, limits: Limits, n_best: bool = False
) -> Hypotheses:
    """The K best hypotheses that a beam search over each row ends with.

    As in fairseq and Hugging Face: of the 2K best continuations of the live beams, those of the
    first K that are EOS end a hypothesis, and the K best that are not EOS live on. A row is done
    when K have ended and no live beam, scored as it stands, beats the worst of them (Hugging
    Face's `early_stopping=False`), or when none can ever beat the best. With one beam this is
    greedy.

    With `n_best`, a row goes on where none can beat the best but the others may still change.
    """

    def choose(state: BeamState, hidden_BxKxD: Any) -> BeamState:
        log_p_BxKxV = started.decoder.log_probabilities(hidden_BxKxD)
        log_p_BxKxV = allowed(log_p_BxKxV, state.tokens_BxKxT, state.position, special, limits)
        best = _continuations(state, log_p_BxKxV)
        return select(state, best, special.eos, strategy, limits.max_tokens, n_best)

    def step(state: BeamState) -> BeamState:
        last_BxK = state.tokens_BxKxT[:, :, state.position - 1]
        hidden_BxKxD, past = started.step(last_BxK, state.position, state.paths_BxKxT, state.past)
        return choose(state._replace(past=past), hidden_BxKxD)

    def unfinished(state: BeamState) -> jax.Array:
        # The bound is for models that give NaN, whose beams never end.
        return ~state.done_B.all() & (state.position < limits.max_tokens)

    hidden_BxKxD, past = started.repeated(strategy.beams)
    first = first_state(started.rows, limits.max_tokens, special.pad, strategy, past)
    state = choose(first, hidden_BxKxD)
    return jax.lax.while_loop(unfinished, step, state).ended


def first_state(rows: int, max_tokens: int, pad: int, strategy: Beam, past: Any) -> BeamState:
    """No token is chosen yet. The beams start out equal, so all but one have log p = -inf."""
    blank_BxKxT = jnp.full((rows, strategy.beams, max_tokens), pad, jnp.int32)
    empty_BxK = jnp.full((rows, strategy.beams), -jnp.inf, jnp.float32)
    return BeamState(
        position=jnp.int32(0),
        past=past,
        paths_BxKxT=jnp.zeros_like(blank_BxKxT),
        tokens_BxKxT=blank_BxKxT,
        log_p_BxK=empty_BxK.at[:, 0].set(0.0),
        ended=Hypotheses(blank_BxKxT, empty_BxK, empty_BxK),
        done_B=jnp.zeros((rows,), bool),
    )


class Continuations(NamedTuple):
    """The 2K best one-token continuations of the live beams, best first."""

    log_p_BxP: jax.Array
    beam_BxP: jax.Array
    token_BxP: jax.Array


def _continuations(state: BeamState, log_p_BxKxV: jax.Array) -> Continuations:
    rows, beams, vocabulary = log_p_BxKxV.shape
    # Two steps, since no beam can have more than 2K among the best 2K: sorting K * V is slower.
    gain_BxKxJ, token_BxKxJ = top_k(log_p_BxKxV, min(2 * beams, vocabulary))
    total_BxKJ = (state.log_p_BxK[..., None] + gain_BxKxJ).reshape(rows, -1)
    log_p_BxP, at_BxP = top_k(total_BxKJ, 2 * beams)
    token_BxP = jnp.take_along_axis(token_BxKxJ.reshape(rows, -1), at_BxP, axis=1)
    return Continuations(log_p_BxP, at_BxP // gain_BxKxJ.shape[-1], token_BxP)


def select(
    state: BeamState,
    best: Continuations,
    eos: int,
    strategy: Beam,
    max_tokens: int,
    n_best: bool = False,
) -> BeamState:
    """The state one token on: continuations that end become hypotheses, the others live on."""
    beams = strategy.beams
    tokens_BxPxT = _pick(state.tokens_BxKxT, best.beam_BxP)
    tokens_BxPxT = tokens_BxPxT.at[:, :, state.position].set(best.token_BxP)
    is_eos_BxP = best.token_BxP == eos
    ended = _ended(state, best, tokens_BxPxT, is_eos_BxP, strategy)
    live_BxP = jnp.where(is_eos_BxP, -jnp.inf, best.log_p_BxP)
    log_p_BxK, at_BxK = top_k(live_BxP, beams)
    from_BxK = jnp.take_along_axis(best.beam_BxP, at_BxK, axis=1)
    paths_BxKxT = _pick(state.paths_BxKxT, from_BxK)
    length, penalty = state.position + 1, strategy.length_penalty
    done_B = is_done(ended, log_p_BxK, length, penalty, max_tokens, n_best)
    return BeamState(
        position=state.position + 1,
        past=state.past,
        paths_BxKxT=paths_BxKxT.at[:, :, state.position + 1].set(jnp.arange(beams)[None]),
        tokens_BxKxT=_pick(tokens_BxPxT, at_BxK),
        log_p_BxK=log_p_BxK,
        ended=ended,
        done_B=state.done_B | done_B,
    )


def _ended(state: BeamState, best: Continuations, tokens_BxPxT, is_eos_BxP, strategy: Beam):
    """The K best hypotheses so far, including those that end now; a done row keeps its own."""
    length = (state.position + 1).astype(jnp.float32)
    ends_BxP = is_eos_BxP & (jnp.arange(2 * strategy.beams) < strategy.beams)[None]
    score_BxP = best.log_p_BxP / length**strategy.length_penalty
    new = Hypotheses(tokens_BxPxT, best.log_p_BxP, jnp.where(ends_BxP, score_BxP, -jnp.inf))
    pool = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), state.ended, new)
    at_BxK = top_k(pool.score_BxK, strategy.beams)[1]

    def keep(old: jax.Array, new: jax.Array) -> jax.Array:
        done_B = state.done_B.reshape(-1, *(1,) * (old.ndim - 1))
        return jnp.where(done_B, old, _pick(new, at_BxK))

    return jax.tree.map(keep, state.ended, pool)


def is_done(
    ended: Hypotheses,
    log_p_BxK: jax.Array,
    length: jax.Array,
    penalty: float,
    max_tokens: int,
    n_best: bool = False,
) -> jax.Array:
    """bool [B]: whether no live beam, best first and of `length` tokens, can change the result:
    the best hypothesis or, with `n_best`, any."""
    length = length.astype(jnp.float32)
    # More tokens only lower log p, but with a penalty the longest response divides it by most.
    furthest = max_tokens if penalty > 0 else length + 1
    hopeless_B = ended.score_BxK[:, 0] >= log_p_BxK[:, 0] / furthest**penalty
    full_B = (ended.score_BxK > -jnp.inf).all(1)
    behind_B = full_B & (ended.score_BxK[:, -1] >= log_p_BxK[:, 0] / length**penalty)
    return behind_B if n_best else hopeless_B | behind_B


def _pick(x_BxM: jax.Array, at_BxK: jax.Array) -> jax.Array:
    """x[b, at[b, k]]: [B, M, ...] -> [B, K, ...]."""
    return jax.vmap(lambda x, at: x[at])(x_BxM, at_BxK)
