"""Responses from a model: greedy, sampled, or by beam search, over a key-value cache.

Each strategy is a first choice from the start token, then a `lax.while_loop` of "one decoder step,
one choice" that stops when every row has ended. Letters as in `igerg_jax.batch`; here also
K beams (not visual tokens), J candidates a beam, P = 2K, and T = `max_tokens`.

What holds for all of them: a response ends with EOS, and only PAD follows; at the last place
nothing but EOS is allowed, at its own log-probability (fairseq's rule; training's cut responses
end so too. Hugging Face's `forced_eos_token_id` counts it as certain). PAD, BOS, UNK,
MASK and the start token are never chosen, nor what would repeat an n-gram of
`generate.no_repeat_ngram` tokens. Scores are the model's own log-probabilities, from
before any of these rules, temperatures or filters. A row's result depends on that row alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igerg_jax.decoding import strategies
from igerg_jax.decoding.strategies import Beam, Greedy, Limits, Sample, Strategy, allowed, top_k
from igerg_jax.models import igerg
from igerg_jax.models.layers import DecoderCache, KeyValue
from igerg_jax.objectives import keys
from igerg_jax.parallel import sharding
from igerg_jax.setup import Setup, mesh_context

# The arrays of a batch that a response depends on: no label, and no response.
BATCH_ENTRIES = ("images", "features", "image_mask", "image_turn", "context", "context_turn")


class Responses(NamedTuple):
    """What a batch was answered with."""

    tokens_BxT: jax.Array  # int32, EOS then PAD
    log_probability_B: jax.Array  # float32, of the tokens up to EOS, in nats
    score_B: jax.Array  # float32: with Beam its score, else the log-probability


class Hypotheses(NamedTuple):
    """A beam search's finished hypotheses, best first; a score of -inf = there is none."""

    tokens_BxKxT: jax.Array
    log_probability_BxK: jax.Array
    score_BxK: jax.Array


def make_respond(setup: Setup) -> Callable[..., Responses]:
    """A function (params, batch, rng, rows_B=None) -> `Responses`, as `config.generate` says.

    It compiles once per shape. It uses the batch's images and context. `rows_B`, int32, numbers
    the examples: with the key `rng` the number decides what is sampled, so that an example's
    sample is the same in any batch (default: its place in the batch). Parameters and batch are on
    `setup.mesh`; the result is replicated.

    Raises:
      UserError: as `strategies.strategy` and `strategies.limits`.
    """
    chosen, limits = strategies.strategy(setup.config), strategies.limits(setup.config)

    def answer(params, batch, rng, rows_B):
        return generate(setup.model, params, batch, rng, chosen, limits, rows_B)

    jitted = jax.jit(answer, out_shardings=sharding.replicated(setup.mesh))

    def respond(
        params: Any,
        batch: Mapping[str, jax.Array],
        rng: jax.Array,
        rows_B: jax.Array | None = None,
    ) -> Responses:
        inputs = {name: batch[name] for name in BATCH_ENTRIES if name in batch}
        with mesh_context(setup):
            return jitted(params, inputs, rng, rows_B)

    return respond


def generate(
    model: igerg.Igerg,
    params: Any,
    batch: Mapping[str, jax.Array],
    rng: jax.Array,
    strategy: Strategy,
    limits: Limits,
    rows_B: jax.Array | None = None,
) -> Responses:
    """Encodes a batch's images and context, decodes a response; what `make_respond` jits."""
    variables = {"params": params}
    if rows_B is None:
        rows_B = jnp.arange(batch["context"].shape[0])
    images = igerg.image_side(batch, model.apply(variables, batch, method="visual_tokens"))
    words = igerg.text_side(batch, model.special)
    encoded = model.apply(variables, images, words, method="encode")
    if isinstance(strategy, Beam):
        found = beam_search(model, params, encoded, strategy, limits)
        return Responses(*(leaf[:, 0] for leaf in found))
    keys_B = keys.row_keys(rng, rows_B)
    return decode_rows(model, params, encoded, keys_B, strategy, limits)


class RowState(NamedTuple):
    """One response a row, so far."""

    position: jax.Array  # int32 scalar: tokens chosen
    past: KeyValue  # [layers, B, T, H, E], of the positions that were read
    tokens_BxT: jax.Array
    last_B: jax.Array  # the token to be read next
    log_p_B: jax.Array
    done_B: jax.Array


def decode_rows(
    model: igerg.Igerg,
    params: Any,
    encoded: igerg.Encoded,
    keys_B: jax.Array,
    strategy: Greedy | Sample,
    limits: Limits,
) -> Responses:
    """Greedy or sampled responses, from each row's own key."""
    special, max_tokens = model.special, limits.max_tokens
    rows = encoded.mask_BxL.shape[0]
    hidden_BxD, cache, table_VxD = _start(model, params, encoded, max_tokens)

    def choose(state: RowState, hidden_BxD: jax.Array) -> RowState:
        log_p_BxV = jax.nn.log_softmax(_logits(hidden_BxD, table_VxD))
        step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, state.position)
        allowed_BxV = allowed(log_p_BxV, state.tokens_BxT, state.position, special, limits)
        token_B = strategy.choose(allowed_BxV, step_keys_B)
        gain_B = jnp.take_along_axis(log_p_BxV, token_B[:, None], axis=1)[:, 0]
        token_B = jnp.where(state.done_B, special.pad, token_B)
        return state._replace(
            position=state.position + 1,
            tokens_BxT=state.tokens_BxT.at[:, state.position].set(token_B),
            last_B=token_B,
            log_p_B=state.log_p_B + jnp.where(state.done_B, 0.0, gain_B),
            done_B=state.done_B | (token_B == special.eos),
        )

    def step(state: RowState) -> RowState:
        hidden_Bx1xD, after = model.apply(
            {"params": params},
            state.last_B[:, None],
            state.position,
            DecoderCache(state.past, cache.cross_attention),
            encoded.mask_BxL,
            method="decode_step",
        )
        return choose(state._replace(past=after.self_attention), hidden_Bx1xD[:, 0])

    state = RowState(
        position=jnp.int32(0),
        past=cache.self_attention,
        tokens_BxT=jnp.full((rows, max_tokens), special.pad, jnp.int32),
        last_B=jnp.full((rows,), special.decoder_start, jnp.int32),
        log_p_B=jnp.zeros((rows,), jnp.float32),
        done_B=jnp.zeros((rows,), bool),
    )
    state = choose(state, hidden_BxD)
    state = jax.lax.while_loop(functools.partial(_unfinished, max_tokens), step, state)
    return Responses(state.tokens_BxT, state.log_p_B, state.log_p_B)


class BeamState(NamedTuple):
    """K live hypotheses a row, and the best that have ended."""

    position: jax.Array  # int32 scalar: tokens chosen
    past: KeyValue  # [layers, K, B, T, H, E]
    tokens_BxKxT: jax.Array
    log_p_BxK: jax.Array  # -inf = no such beam
    ended: Hypotheses
    done_B: jax.Array


def beam_search(
    model: igerg.Igerg, params: Any, encoded: igerg.Encoded, strategy: Beam, limits: Limits
) -> Hypotheses:
    """The K best hypotheses that a beam search over each row ends with.

    As in fairseq and Hugging Face: of the 2K best continuations of the live beams, those of the
    first K that are EOS end a hypothesis, and the K best that are not EOS live on. A row is done
    when K have ended and no live beam, scored as it stands, beats the worst of them (Hugging
    Face's `early_stopping=False`), or when none can ever beat the best. With one beam this is
    greedy.
    """
    special, beams, rows = model.special, strategy.beams, encoded.mask_BxL.shape[0]
    max_tokens = limits.max_tokens
    hidden_BxD, cache, table_VxD = _start(model, params, encoded, max_tokens)

    def choose(state: BeamState, hidden_BxKxD: jax.Array) -> BeamState:
        log_p_BxKxV = jax.nn.log_softmax(_logits(hidden_BxKxD, table_VxD))
        log_p_BxKxV = allowed(log_p_BxKxV, state.tokens_BxKxT, state.position, special, limits)
        best = _continuations(state, log_p_BxKxV)
        return _select(state, best, special.eos, strategy, max_tokens)

    def step(state: BeamState) -> BeamState:
        def read(token_B: jax.Array, past: KeyValue):
            hidden_Bx1xD, after = model.apply(
                {"params": params},
                token_B[:, None],
                state.position,
                DecoderCache(past, cache.cross_attention),
                encoded.mask_BxL,
                method="decode_step",
            )
            return hidden_Bx1xD[:, 0], after.self_attention

        # Mapped over beams, not folded into rows: the encoder's keys and values, the larger part
        # of the cache, stay one copy a row.
        last_BxK = state.tokens_BxKxT[:, :, state.position - 1]
        hidden_BxKxD, past = jax.vmap(read, in_axes=(1, 1), out_axes=(1, 1))(last_BxK, state.past)
        return choose(state._replace(past=past), hidden_BxKxD)

    empty_BxK = jnp.full((rows, beams), -jnp.inf, jnp.float32)
    blank_BxKxT = jnp.full((rows, beams, max_tokens), special.pad, jnp.int32)
    state = BeamState(
        position=jnp.int32(0),
        past=jax.tree.map(lambda x: jnp.repeat(x[:, None], beams, axis=1), cache.self_attention),
        tokens_BxKxT=blank_BxKxT,
        log_p_BxK=empty_BxK.at[:, 0].set(0.0),  # the beams begin equal: only one may count
        ended=Hypotheses(blank_BxKxT, empty_BxK, empty_BxK),
        done_B=jnp.zeros((rows,), bool),
    )
    state = choose(state, jnp.repeat(hidden_BxD[:, None], beams, axis=1))
    return jax.lax.while_loop(functools.partial(_unfinished, max_tokens), step, state).ended


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


def _select(
    state: BeamState, best: Continuations, eos: int, strategy: Beam, max_tokens: int
) -> BeamState:
    """Splits continuations into those that ended and those that live on."""
    beams, penalty = strategy.beams, strategy.length_penalty
    length = (state.position + 1).astype(jnp.float32)
    tokens_BxPxT = _pick(state.tokens_BxKxT, best.beam_BxP)
    tokens_BxPxT = tokens_BxPxT.at[:, :, state.position].set(best.token_BxP)
    is_eos_BxP = best.token_BxP == eos

    within_K_1xP = (jnp.arange(2 * beams) < beams)[None]
    ends_BxP = is_eos_BxP & within_K_1xP
    score_BxP = jnp.where(ends_BxP, best.log_p_BxP / length**penalty, -jnp.inf)
    fresh = Hypotheses(tokens_BxPxT, best.log_p_BxP, score_BxP)
    pool = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), state.ended, fresh)
    at_BxK = top_k(pool.score_BxK, beams)[1]
    ended = jax.tree.map(
        lambda old, new: jnp.where(_like(state.done_B, old), old, _pick(new, at_BxK)),
        state.ended,
        pool,
    )

    live_BxP = jnp.where(is_eos_BxP, -jnp.inf, best.log_p_BxP)
    log_p_BxK, at_BxK = top_k(live_BxP, beams)
    from_BxK = jnp.take_along_axis(best.beam_BxP, at_BxK, axis=1)
    # More tokens only lower log p, but they may divide it by more.
    furthest = max_tokens if penalty > 0 else length + 1
    hopeless_B = ended.score_BxK[:, 0] >= log_p_BxK[:, 0] / furthest**penalty
    full_B = (ended.score_BxK > -jnp.inf).all(1)
    behind_B = full_B & (ended.score_BxK[:, -1] >= log_p_BxK[:, 0] / length**penalty)
    return BeamState(
        position=state.position + 1,
        past=jax.tree.map(lambda x: _reorder(x, from_BxK), state.past),
        tokens_BxKxT=_pick(tokens_BxPxT, at_BxK),
        log_p_BxK=log_p_BxK,
        ended=ended,
        done_B=state.done_B | hopeless_B | behind_B,
    )


def _unfinished(max_tokens: int, state: RowState | BeamState) -> jax.Array:
    # The bound is for models that give NaN, whose beams never end.
    return ~state.done_B.all() & (state.position < max_tokens)


def _start(model, params, encoded: igerg.Encoded, max_tokens: int):
    """Reads the start token: (hidden [B, D], the cache, the output embedding as it is used)."""
    start_Bx1 = jnp.full((encoded.mask_BxL.shape[0], 1), model.special.decoder_start, jnp.int32)
    hidden_Bx1xD, cache = model.apply(
        {"params": params},
        start_Bx1,
        encoded.hidden_BxLxD,
        encoded.mask_BxL,
        max_tokens,
        method="start_decoding",
    )
    return hidden_Bx1xD[:, 0], cache, params["token_embedding"].astype(hidden_Bx1xD.dtype)


def _logits(hidden_xD: jax.Array, table_VxD: jax.Array) -> jax.Array:
    """float32 [..., V]: products in the compute dtype, summed in float32, as in training."""
    return jnp.einsum("...d,vd->...v", hidden_xD, table_VxD, preferred_element_type=jnp.float32)


def _pick(x_BxM: jax.Array, at_BxK: jax.Array) -> jax.Array:
    """x[b, at[b, k]]: [B, M, ...] -> [B, K, ...]."""
    return jax.vmap(lambda x, at: x[at])(x_BxM, at_BxK)


def _reorder(x: jax.Array, from_BxK: jax.Array) -> jax.Array:
    """Moves beams in a cache's leaf [layers, K, B, ...]."""
    return jax.vmap(lambda x, at: x[:, at], in_axes=(2, 0), out_axes=2)(x, from_BxK)


def _like(flag_B: jax.Array, x: jax.Array) -> jax.Array:
    return flag_B.reshape(flag_B.shape + (1,) * (x.ndim - 1))
