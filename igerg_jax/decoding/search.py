"""Responses from a model: one token per row and step, or by beam search, over a key-value cache.

Each search picks a token after the start token, then loops over "one decoder step, one choice" in a
`lax.while_loop` that stops when every row has ended. Letters as in `igerg_jax.batch`, and T =
`max_tokens`.

A response ends with EOS, and only PAD follows. At the last position EOS is forced, at its own
log-probability (fairseq's rule, and how training truncates responses; Hugging Face's
`forced_eos_token_id` counts it as certain). `limits.allowed` lists what is never chosen. Scores are
the model's own log-probabilities, guided where there is guidance, before those rules, temperatures
and filters. A row's result depends only on that row.

The decoder is conditioned on the emotion seen in the response's image, or on one that is named.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from igerg_jax import random_keys
from igerg_jax.batch import SpecialIds
from igerg_jax.decoding import strategies, stream
from igerg_jax.decoding.beam_search import beam_search
from igerg_jax.decoding.guidance import Guidance, start_guided
from igerg_jax.decoding.limits import Limits, allowed
from igerg_jax.decoding.reranking import Backward, rerank
from igerg_jax.decoding.strategies import Beam, Sample, Strategy, TokenStrategy
from igerg_jax.decoding.stream import Source, Started
from igerg_jax.models import igerg
from igerg_jax.setup import Jitted, Setup

# The arrays of a batch that a response depends on: no label, and no response.
BATCH_ENTRIES = ("images", "features", "image_mask", "image_turn", "context", "context_turn")


class Responses(NamedTuple):
    """One response a row."""

    tokens_BxT: jax.Array  # int32, EOS then PAD
    log_probability_B: jax.Array  # float32, of the tokens up to EOS, in nats
    score_B: jax.Array  # float32: what it was chosen by among several, else the log-probability


jax.export.register_namedtuple_serialization(Responses, serialized_name="igerg_jax.Responses")


class Settings(NamedTuple):
    """What `config.generate` says."""

    strategy: Strategy
    limits: Limits
    guidance: Guidance

    @classmethod
    def of(cls, config: Any) -> Settings:
        """The settings of `config.generate`, checked.

        Raises:
          UserError: an unknown strategy, or a number out of range; the message names the key.
        """
        return cls(strategies.strategy(config), Limits.of(config), Guidance.of(config))


class Respond:
    """Responses to batches, as `settings` say (default: what `config.generate` says).

    It compiles once per shape. Parameters and batch are on `setup.mesh`; the result is replicated.

    Raises:
      UserError: as `Settings.of`.
    """

    def __init__(
        self, setup: Setup, settings: Settings | None = None, backward: Backward | None = None
    ):
        """With `backward`, beams are re-ranked."""
        settings = settings or Settings.of(setup.config)
        self._backward_params = None
        if backward is not None:  # its parameters are no constants of the program
            self._backward_params, backward = backward.params, backward._replace(params=None)
        function = functools.partial(_respond, settings=settings, backward=backward)
        self._jitted = Jitted(setup, function)

    def __call__(
        self,
        params: Any,
        batch: Mapping[str, jax.Array],
        rng: jax.Array,
        rows_B: jax.Array | None = None,
        target_emotion_BxC: jax.Array | None = None,
        guidance: jax.Array | None = None,
    ) -> Responses:
        """One response per row of the batch, of which images and context are used.

        Args:
          rng: a key. With it, an example's number in `rows_B` decides what is sampled.
          rows_B: int32, so that an example's sample is the same in any batch; default: the place
            in the batch.
          target_emotion_BxC: probabilities of the emotion to respond with; default: the one seen in
            the response's image.
          guidance: a float32 scalar in place of the settings', which may differ from call to call.
        """
        arguments = _inputs(batch), rng, rows_B, target_emotion_BxC, guidance
        return self._jitted(params, *arguments, self._backward_params)

    def compile(self, params: Any, batch: Mapping[str, Any], rng: jax.Array, rows_B: Any) -> None:
        """As `Jitted.compile`, for calls with these four arguments."""
        arguments = _inputs(batch), rng, rows_B, None, None
        self._jitted.compile(params, *arguments, self._backward_params)


def _inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in BATCH_ENTRIES if name in batch}


def _respond(
    model, params, batch, rng, rows_B, target_BxC, guidance, backward_params, *, settings, backward
):
    if backward is not None:
        backward = backward._replace(params=backward_params)
    if guidance is not None:
        guided = dataclasses.replace(settings.guidance, guidance=guidance)
        settings = settings._replace(guidance=guided)
    return generate(model, params, batch, rng, settings, rows_B, target_BxC, backward)


def generate(
    model: igerg.Igerg,
    params: Any,
    batch: Mapping[str, jax.Array],
    rng: jax.Array,
    settings: Settings,
    rows_B: jax.Array | None = None,
    target_emotion_BxC: jax.Array | None = None,
    backward: Backward | None = None,
) -> Responses:
    """Encodes a batch's images and context, decodes a response; what `Respond` jits.

    With `backward`, what is best of a beam search's hypotheses is that of `reranking`.
    """
    strategy, limits, guidance = settings
    if rows_B is None:
        rows_B = jnp.arange(batch["context"].shape[0])
    decoded_from = sources(model, params, batch, target_emotion_BxC, guidance.needs_both)
    if guidance.needs_both:
        started = start_guided(model, params, decoded_from, guidance, limits.max_tokens)
    else:
        started = stream.start(model, params, decoded_from[0], limits.max_tokens)
    if isinstance(strategy, Beam):
        n_best = backward is not None
        hypotheses = beam_search(started, model.special, strategy, limits, n_best)
        if backward is not None:
            hypotheses = rerank(hypotheses, backward, batch)
        return Responses(*(leaf[:, 0] for leaf in hypotheses))
    keys_B = random_keys.row_keys(rng, rows_B)
    candidates = strategy.candidates if isinstance(strategy, Sample) else 1
    if candidates == 1:
        return decode_rows(started, model.special, keys_B[:, None], strategy, limits)
    keys_BxK = jax.vmap(functools.partial(jax.random.split, num=candidates))(keys_B)
    decoded = decode_rows(started, model.special, keys_BxK, strategy, limits)
    return best_candidates(decoded, candidates, strategy.length_penalty, model.special)


def best_candidates(
    decoded: Responses, candidates: int, length_penalty: float, special: SpecialIds
) -> Responses:
    """Of each `candidates` consecutive rows, the one with the highest
    log p / length ** length_penalty, which becomes its score. The first wins ties.

    A row with a forced EOS, at the maximum length, is kept only if all of them have one.
    """
    length_B = (decoded.tokens_BxT != special.pad).sum(1)
    scored = decoded._replace(score_B=decoded.log_probability_B / length_B**length_penalty)
    score_BxK, ended_BxK = (
        x.reshape(-1, candidates)
        for x in (scored.score_B, decoded.tokens_BxT[:, -1] == special.pad)
    )
    choice_BxK = ended_BxK | ~ended_BxK.any(1, keepdims=True)
    best_B = jnp.where(choice_BxK, score_BxK, -jnp.inf).argmax(1)
    rows_B = jnp.arange(best_B.shape[0]) * candidates + best_B
    return Responses(*(leaf[rows_B] for leaf in scored))


def sources(
    model: igerg.Igerg,
    params: Any,
    batch: Mapping[str, jax.Array],
    target_emotion_BxC: jax.Array | None,
    guided: bool,
) -> tuple[Source, ...]:
    """What to decode from; with `guided`, then also without the response's face and emotion."""
    apply = functools.partial(model.apply, {"params": params})
    images = igerg.image_side(batch, apply(batch, method="visual_tokens"))
    words = igerg.text_side(batch, model.special)
    response_image_BxN = igerg.response_image(batch, model.special)
    sees_emotions = model.emotion_embedding != "none" and "emotion_head" in params
    if target_emotion_BxC is None and sees_emotions:
        image_encoding = apply(images, None, method="encode")
        logits_BxNxC = apply(image_encoding, method="image_emotion_logits")
        target_emotion_BxC = igerg.target_emotion(logits_BxNxC, response_image_BxN)
    source = Source(apply(images, words, method="encode"), target_emotion_BxC)
    if not guided:
        return (source,)
    images = images._replace(mask_BxN=images.mask_BxN & ~response_image_BxN)
    return source, Source(apply(images, words, method="encode"), None)


class ResponseState(NamedTuple):
    """R = B * K responses so far, those of one row side by side."""

    position: jax.Array  # int32 scalar: tokens chosen
    past: Any  # of the stream, of the positions decoded so far
    tokens_RxT: jax.Array
    last_R: jax.Array  # the token to decode next
    log_p_R: jax.Array
    done_R: jax.Array


def _own_paths(rows: int, responses: int, max_tokens: int) -> jax.Array:
    """int32[B, K, T] for `Started.step`: no response continues another, but for the start token."""
    own_1xKx1 = jnp.arange(responses)[None, :, None]
    own_1xKxT = jnp.where(jnp.arange(max_tokens)[None, None] > 0, own_1xKx1, 0)
    return jnp.broadcast_to(own_1xKxT, (rows, responses, max_tokens))


def decode_rows(
    started: Started,
    special: SpecialIds,
    keys_BxK: jax.Array,
    strategy: TokenStrategy,
    limits: Limits,
) -> Responses:
    """K responses per row, each with its own key, of one token per step: [B * K] of them."""
    shape, max_tokens = keys_BxK.shape, limits.max_tokens
    keys_R, rows = keys_BxK.reshape(-1), keys_BxK.size

    def choose(state: ResponseState, hidden_BxKxD: Any) -> ResponseState:
        log_p_RxV = started.decoder.log_probabilities(hidden_BxKxD).reshape(rows, -1)
        step_keys_R = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_R, state.position)
        allowed_RxV = allowed(log_p_RxV, state.tokens_RxT, state.position, special, limits)
        token_R = strategy.choose(allowed_RxV, step_keys_R)
        gain_R = jnp.take_along_axis(log_p_RxV, token_R[:, None], axis=1)[:, 0]
        token_R = jnp.where(state.done_R, special.pad, token_R)
        return state._replace(
            position=state.position + 1,
            tokens_RxT=state.tokens_RxT.at[:, state.position].set(token_R),
            last_R=token_R,
            log_p_R=state.log_p_R + jnp.where(state.done_R, 0.0, gain_R),
            done_R=state.done_R | (token_R == special.eos),
        )

    def step(state: ResponseState) -> ResponseState:
        last_BxK = state.last_R.reshape(shape)
        hidden_BxKxD, past = started.step(last_BxK, state.position, paths_BxKxT, state.past)
        return choose(state._replace(past=past), hidden_BxKxD)

    def unfinished(state: ResponseState) -> jax.Array:
        return ~state.done_R.all() & (state.position < max_tokens)

    paths_BxKxT = _own_paths(*shape, max_tokens)
    hidden_BxKxD, past = started.repeated(shape[1])
    state = ResponseState(
        position=jnp.int32(0),
        past=past,
        tokens_RxT=jnp.full((rows, max_tokens), special.pad, jnp.int32),
        last_R=jnp.full((rows,), special.decoder_start, jnp.int32),
        log_p_R=jnp.zeros((rows,), jnp.float32),
        done_R=jnp.zeros((rows,), bool),
    )
    state = jax.lax.while_loop(unfinished, step, choose(state, hidden_BxKxD))
    return Responses(state.tokens_RxT, state.log_p_R, state.log_p_R)
