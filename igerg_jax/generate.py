"""Responses from a model: greedy, sampled, or by beam search, over a key-value cache.

Each strategy is a first choice from the start token, then a `lax.while_loop` of "one decoder step,
one choice" that stops when every row has ended. Letters as in `igerg_jax.batch`; here also
K beams (not visual tokens), J candidates a beam, P = 2K, and T = `max_tokens`.

What holds for all of them: a response ends with EOS, and only PAD follows; at the last place
nothing but EOS is allowed (fairseq's rule; training's cut responses end so too). PAD, BOS, UNK,
MASK and the start token are never chosen. Scores are the model's own log-probabilities, from
before any of these rules, temperatures or filters. A row's result depends on that row alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igerg_jax import objectives, sharding
from igerg_jax.batch import SpecialIds
from igerg_jax.errors import UserError
from igerg_jax.models import igerg
from igerg_jax.models.layers import DecoderCache, KeyValue
from igerg_jax.step import Setup, mesh_context


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The likeliest token each time."""

    def choose(self, log_p_BxV: jax.Array, keys_B: jax.Array) -> jax.Array:
        """int32 [B] out of log-probabilities float32 [B, V]; -inf = not allowed."""
        return log_p_BxV.argmax(-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A token at random, after temperature, then top-k, then top-p."""

    temperature: float
    top_k: int  # only the k likeliest; 0 = all
    top_p: float  # only the likeliest that together reach p (Holtzman et al. 2020); 1 = all

    def choose(self, log_p_BxV: jax.Array, keys_B: jax.Array) -> jax.Array:
        """int32 [B] out of log-probabilities float32 [B, V]; -inf = not allowed."""
        logits_BxV = self.filtered(log_p_BxV)
        return jax.vmap(jax.random.categorical)(keys_B, logits_BxV).astype(jnp.int32)

    def filtered(self, log_p_BxV: jax.Array) -> jax.Array:
        """The logits float32 [B, V] that are drawn from: -inf where a filter says no."""
        logits_BxV = log_p_BxV / self.temperature
        if self.top_k:
            k = min(self.top_k, logits_BxV.shape[-1])
            logits_BxV = _at_least(logits_BxV, _top_k(logits_BxV, k)[0][:, -1:])
        if self.top_p < 1:
            sorted_BxV = jnp.sort(logits_BxV, axis=-1, descending=True)
            p_BxV = jax.nn.softmax(sorted_BxV)
            # The likeliest token has 0 before it, so one is always kept.
            kept_BxV = jnp.cumsum(p_BxV, axis=-1) - p_BxV < self.top_p
            least_Bx1 = jnp.where(kept_BxV, sorted_BxV, jnp.inf).min(-1, keepdims=True)
            logits_BxV = _at_least(logits_BxV, least_Bx1)
        return logits_BxV


@dataclasses.dataclass(frozen=True)
class Beam:
    """Beam search. A hypothesis's score is log p / length ** length_penalty, EOS counted."""

    beams: int
    length_penalty: float


Strategy = Greedy | Sample | Beam

# What of a batch is read: no label, and no response.
BATCH_ENTRIES = ("images", "features", "image_mask", "image_turn", "context", "context_turn", "row")


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


def strategy(config: Any) -> Strategy:
    """The strategy that `config.generate` describes.

    Raises:
      UserError: unknown strategy, or a number out of range; the message names the key.
    """
    settings = config.generate
    longest = config.model.text.max_positions
    if not 1 <= settings.max_tokens <= longest:
        raise UserError(
            f"generate.max_tokens={settings.max_tokens} must be between 1 and "
            f"model.text.max_positions={longest}"
        )
    if settings.strategy == "greedy":
        return Greedy()
    if settings.strategy == "sample":
        if settings.temperature <= 0 or settings.top_k < 0 or not 0 < settings.top_p <= 1:
            raise UserError(
                f"generate: temperature={settings.temperature} must be above 0, "
                f"top_k={settings.top_k} at least 0 and top_p={settings.top_p} in (0, 1]"
            )
        return Sample(settings.temperature, settings.top_k, settings.top_p)
    if settings.strategy == "beam":
        if settings.beams < 1:
            raise UserError(f"generate.beams={settings.beams} must be at least 1")
        return Beam(settings.beams, settings.length_penalty)
    raise UserError(
        f"generate.strategy='{settings.strategy}' is unknown; there are: greedy, sample, beam"
    )


def make_respond(setup: Setup) -> Callable[[Any, Mapping[str, jax.Array], jax.Array], Responses]:
    """A function (params, batch, rng) -> `Responses`, as `config.generate` says.

    It compiles once a shape. Of the contract's arrays it reads the images and the context; an
    int32 entry `row` [B], where present, is each example's number: with the key `rng` it decides
    what is sampled, so that an example's sample is the same in any batch (default: its place).
    Parameters and batch are on `setup.mesh`; the result is whole on every device.

    Raises:
      UserError: as `strategy`.
    """
    chosen, max_tokens = strategy(setup.config), setup.config.generate.max_tokens

    def answer(params, batch, rng):
        return generate(setup.model, params, batch, rng, chosen, max_tokens)

    jitted = jax.jit(answer, out_shardings=sharding.replicated(setup.mesh))

    def respond(params: Any, batch: Mapping[str, jax.Array], rng: jax.Array) -> Responses:
        read = {name: batch[name] for name in BATCH_ENTRIES if name in batch}
        with mesh_context(setup):
            return jitted(params, read, rng)

    return respond


def generate(
    model: igerg.Igerg,
    params: Any,
    batch: Mapping[str, jax.Array],
    rng: jax.Array,
    strategy: Strategy,
    max_tokens: int,
) -> Responses:
    """Encodes a batch's images and context, decodes a response; what `make_respond` jits."""
    variables = {"params": params}
    batch = dict(batch)
    batch.setdefault("row", jnp.arange(batch["context"].shape[0]))
    images = model.apply(variables, batch, method="image_side")
    words = igerg.text_side(batch, model.special)
    encoded = model.apply(variables, images, words, method="encode")
    if isinstance(strategy, Beam):
        found = beam_search(model, params, encoded, strategy, max_tokens)
        return Responses(*(leaf[:, 0] for leaf in found))
    keys_B = objectives.row_keys(rng, batch)
    return decode_rows(model, params, encoded, keys_B, strategy, max_tokens)


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
    max_tokens: int,
) -> Responses:
    """Greedy or sampled responses, from each row's own key."""
    special = model.special
    rows = encoded.mask_BxL.shape[0]
    hidden_BxD, cache, table_VxD = _start(model, params, encoded, max_tokens)

    def choose(state: RowState, hidden_BxD: jax.Array) -> RowState:
        log_p_BxV = jax.nn.log_softmax(_logits(hidden_BxD, table_VxD))
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, state.position)
        allowed_BxV = _allowed(log_p_BxV, state.position, special, max_tokens)
        token_B = strategy.choose(allowed_BxV, keys)
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
    model: igerg.Igerg, params: Any, encoded: igerg.Encoded, strategy: Beam, max_tokens: int
) -> Hypotheses:
    """The K best hypotheses that a beam search over each row ends with.

    As in fairseq and Hugging Face: of the 2K best continuations of the live beams, those of the
    first K that are EOS end a hypothesis, and the K best that are not EOS live on. A row is done
    when K have ended and no live beam, scored as it stands, beats the worst of them (Hugging
    Face's `early_stopping=False`), or when none can ever beat the best. With one beam this is
    greedy.
    """
    special, beams, rows = model.special, strategy.beams, encoded.mask_BxL.shape[0]
    hidden_BxD, cache, table_VxD = _start(model, params, encoded, max_tokens)

    def choose(state: BeamState, hidden_BxKxD: jax.Array) -> BeamState:
        log_p_BxKxV = jax.nn.log_softmax(_logits(hidden_BxKxD, table_VxD))
        log_p_BxKxV = _allowed(log_p_BxKxV, state.position, special, max_tokens)
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
    gain_BxKxJ, token_BxKxJ = _top_k(log_p_BxKxV, min(2 * beams, vocabulary))
    total_BxKJ = (state.log_p_BxK[..., None] + gain_BxKxJ).reshape(rows, -1)
    log_p_BxP, at_BxP = _top_k(total_BxKJ, 2 * beams)
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
    at_BxK = _top_k(pool.score_BxK, beams)[1]
    ended = jax.tree.map(
        lambda old, new: jnp.where(_like(state.done_B, old), old, _pick(new, at_BxK)),
        state.ended,
        pool,
    )

    live_BxP = jnp.where(is_eos_BxP, -jnp.inf, best.log_p_BxP)
    log_p_BxK, at_BxK = _top_k(live_BxP, beams)
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


def _allowed(
    log_p_xV: jax.Array, position: jax.Array, special: SpecialIds, max_tokens: int
) -> jax.Array:
    """-inf at ids that may not be chosen at `position`."""
    ids_V = np.arange(log_p_xV.shape[-1])
    roles = (special.pad, special.bos, special.unk, special.mask, special.decoder_start)
    word_V = ~np.isin(ids_V, roles) | (ids_V == special.eos)  # EOS may be the start token too
    allowed_V = jnp.where(position == max_tokens - 1, ids_V == special.eos, word_V)
    return jnp.where(jnp.broadcast_to(allowed_V, log_p_xV.shape), log_p_xV, -jnp.inf)


def _top_k(x_BxM: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`lax.top_k` of float32 [B, ..., M], for each device's own rows.

    The partitioner would gather every row on every device: for beams and a vocabulary, gigabytes
    a step.
    """

    def top(x):
        return jax.lax.top_k(x, k)

    if jax.sharding.get_abstract_mesh().empty:
        return top(x_BxM)
    rows = nn.logical_to_mesh_axes(("batch",))
    return jax.shard_map(top, in_specs=rows, out_specs=rows)(x_BxM)


def _at_least(logits_BxV: jax.Array, least_Bx1: jax.Array) -> jax.Array:
    return jnp.where(logits_BxV >= least_Bx1, logits_BxV, -jnp.inf)


def _pick(x_BxM: jax.Array, at_BxK: jax.Array) -> jax.Array:
    """x[b, at[b, k]]: [B, M, ...] -> [B, K, ...]."""
    return jax.vmap(lambda x, at: x[at])(x_BxM, at_BxK)


def _reorder(x: jax.Array, from_BxK: jax.Array) -> jax.Array:
    """Moves beams in a cache's leaf [layers, K, B, ...]."""
    return jax.vmap(lambda x, at: x[:, at], in_axes=(2, 0), out_axes=2)(x, from_BxK)


def _like(flag_B: jax.Array, x: jax.Array) -> jax.Array:
    return flag_B.reshape(flag_B.shape + (1,) * (x.ndim - 1))
