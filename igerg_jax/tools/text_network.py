"""Trains `igerg_jax.text_labeller.network`, with Flax and Optax.

L = `MAX_WORDS`; the other letters as there.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.text_labeller import Network, network, reading
from igerg_jax.text_labeller.network import MAX_WORDS, NOTHING, UNKNOWN_WORD, WIDTHS

WIDTH, FEATURES = 64, 96  # D and P
BATCH, EPOCHS, PEAK_LEARNING_RATE, WEIGHT_DECAY = 256, 6, 2e-3, 1e-2
DROPOUT = 0.5  # of features
WORD_DROPOUT = 0.1  # words that are shown as unknown, so that an unknown word has an embedding
MIN_COUNT = 2  # of a word, to be in the vocabulary


class Convolutions(nn.Module):
    """The network, for a batch of texts, as `Network.logits` has it for one."""

    vocabulary: int

    @nn.compact
    def __call__(self, id_BxL: jax.Array, train: bool) -> jax.Array:
        real_BxLx1 = (id_BxL != NOTHING)[..., None]
        x_BxLxD = nn.Embed(self.vocabulary, WIDTH, name="embedding")(id_BxL) * real_BxLx1
        largest = []
        for n in WIDTHS:
            # Windows begin at a word and may reach past the last one.
            conv = nn.Conv(FEATURES, (n,), padding=((0, n - 1),), name=f"conv{n}")
            largest.append((nn.relu(conv(x_BxLxD)) * real_BxLx1).max(1))
        features_BxF = jnp.concatenate(largest, -1)
        features_BxF = nn.Dropout(DROPOUT, deterministic=not train)(features_BxF)
        return nn.Dense(NUM_EMOTIONS, name="output")(features_BxF)


def train(
    texts: Sequence[str],
    emotion_N: np.ndarray,
    weight_N: np.ndarray,
    score: Callable[[Network], float],
    max_words: int,
    seed: int,
) -> Network:
    """The network after the epoch of the best score.

    Args:
      weight_N: of each text in the loss; texts of weight 0 are not trained on.
      score: of a network, on other texts.
      max_words: of the vocabulary, the commonest ones.
    """
    used = np.flatnonzero(weight_N)
    words = vocabulary([texts[i] for i in used], max_words)
    ids = network.ids_of(words)
    id_NxL = np.full((len(used), MAX_WORDS), NOTHING, np.int32)
    for row, i in enumerate(used):
        found = network.encode(texts[i], ids)
        id_NxL[row, : len(found)] = found
    steps = -(-len(used) // BATCH)
    schedule = optax.cosine_onecycle_schedule(EPOCHS * steps, PEAK_LEARNING_RATE)
    model = Convolutions(network.FIRST_WORD + len(words))
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    params = model.init(key, id_NxL[:1], train=False)["params"]
    state = params, optimizer.init(params)
    step = jax.jit(_make_step(model, optimizer))
    best, best_score = None, -1.0
    for epoch in range(EPOCHS):
        order, losses = rng.permutation(len(used)), []
        for number, at in enumerate(np.array_split(order, steps)):
            # One shape for all batches, cut to the longest text of a few lengths.
            rows = np.resize(at, BATCH)
            weight_B = np.where(np.arange(BATCH) < len(at), weight_N[used[rows]], 0)
            longest = (id_NxL[rows] != NOTHING).sum(1).max()
            length = min(MAX_WORDS, max(8, 1 << int(longest - 1).bit_length()))
            batch = id_NxL[rows, :length], emotion_N[used[rows]], weight_B.astype(np.float32)
            state, loss = step(state, jax.random.fold_in(key, epoch * steps + number), *batch)
            losses.append(loss)
        found = exported(state[0], words)
        found_score = score(found)
        print(
            f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, macro-F1 {found_score:.4f}", flush=True
        )
        if found_score > best_score:
            best, best_score = found, found_score
    return best


def _make_step(model: Convolutions, optimizer: optax.GradientTransformation) -> Callable:
    def step(state, key, id_BxL, emotion_B, weight_B):
        params, optimizer_state = state
        words_key, dropout_key = jax.random.split(key)
        hidden_BxL = jax.random.bernoulli(words_key, WORD_DROPOUT, id_BxL.shape)
        id_BxL = jnp.where(hidden_BxL & (id_BxL != NOTHING), UNKNOWN_WORD, id_BxL)

        def loss(params):
            rngs = {"dropout": dropout_key}
            logits_BxC = model.apply({"params": params}, id_BxL, train=True, rngs=rngs)
            nll_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxC, emotion_B)
            return (nll_B * weight_B).sum() / weight_B.sum()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), value

    return step


def vocabulary(texts: Sequence[str], max_words: int) -> tuple[str, ...]:
    """The commonest words that come at least `MIN_COUNT` times; ties by the alphabet."""
    counts = collections.Counter(word for text in texts for word in reading.words(text))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(word for word, count in ranked[:max_words] if count >= MIN_COUNT)


def exported(params: Any, words: tuple[str, ...]) -> Network:
    """Trained parameters, as arrays."""
    params = jax.tree.map(np.asarray, jax.device_get(params))
    embedding_VxD = params["embedding"]["embedding"].copy()
    embedding_VxD[NOTHING] = 0
    convolutions = [params[f"conv{n}"] for n in WIDTHS]
    return Network(
        words=words,
        embedding_VxD=embedding_VxD,
        kernels=[c["kernel"].reshape(-1, FEATURES) for c in convolutions],
        biases=[c["bias"] for c in convolutions],
        output_FxC=params["output"]["kernel"],
        intercepts_C=params["output"]["bias"],
        held_out={},
    )
