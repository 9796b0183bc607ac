"""How far figures would differ with other conversations and other faces: a cluster bootstrap.

The windows of a conversation overlap, and one face is shown in many windows. So whole conversations
are drawn with replacement and, for the emotions of images, different images (Efron & Tibshirani
1993, chapter 8). Letters as in `igerg_jax.batch`; W = windows, K = clusters.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from igerg_jax import metrics, prediction_metrics, text_metrics
from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN
from igerg_jax.data import store
from igerg_jax.data.windows import Split

RESAMPLES = 1000


def labels_and_guesses(predicted: prediction_metrics.Predicted) -> dict[str, Any]:
    """Pairs of (label, UNKNOWN where there is nothing to label; likeliest emotion), int8.

    Returns:
      "image" [B, N, 2], "sequence" [B, 2] and "judge" [B, 2].
    """
    batch, shown_BxN = predicted.batch, predicted.batch["image_mask"]
    has_words_B = predicted.spoken_BxT.any(1)
    parts = {
        "image": (shown_BxN, batch["image_emotion"], predicted.image_logits_BxNxC),
        "sequence": (shown_BxN.any(1), batch["sequence_emotion"], predicted.sequence_logits_BxC),
        "judge": (has_words_B, batch["response_emotion"], predicted.judge_logits_BxC),
    }
    return {
        name: jnp.stack([jnp.where(counts, label, UNKNOWN), logits.argmax(-1)], -1).astype(jnp.int8)
        for name, (counts, label, logits) in parts.items()
    }


def standard_errors(
    split: Split, windows: Mapping[str, np.ndarray], expressed: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """{name of a metric with `metrics.STANDARD_ERROR` appended: its standard error}.

    Args:
      windows: of the first W windows of the split: `labels_and_guesses`, and "nll" and "tokens" of
        their responses.
      expressed: by each labeller, as in `prediction_metrics.response_emotions`, the emotion ids
        found in the generated responses to the first R of them.

    Returns:
      Only metrics with something to measure in at least two clusters.
    """
    conversation_W = conversations(split)[: len(windows["nll"])]
    image_WxN = image_of_slots(split, *windows["image"].shape[:2])
    # By the start and the end of the metrics' names.
    tables = {
        ("image_emotion", ""): (image_WxN, windows["image"]),
        ("sequence_emotion", ""): (conversation_W, windows["sequence"]),
        ("judge", ""): (conversation_W, windows["judge"]),
    }
    for ordinal, expressed_R in expressed.items():
        responses = len(expressed_R)
        label_R = split.turns.emotion[split.response_turn[:responses]]
        end = f"_{ordinal}" if ordinal else ""
        pairs_Rx2 = np.stack([label_R, expressed_R], -1)
        tables["response_emotion", end] = (conversation_W[:responses], pairs_Rx2)
    known = metrics.by_name()
    errors = {}
    for (prefix, end), (cluster, pairs) in tables.items():
        counts_KxM = confusions(cluster, pairs).reshape(-1, NUM_EMOTIONS**2)
        for name, figure in prediction_metrics.OF_EMOTIONS.items():
            if f"{prefix}_{name}{end}" in known:
                errors[f"{prefix}_{name}{end}"] = standard_error(
                    counts_KxM, lambda m, f=figure: f(m.reshape(NUM_EMOTIONS, NUM_EMOTIONS))
                )
    _, number_W = np.unique(conversation_W, return_inverse=True)
    sums_Kx2 = np.stack([np.bincount(number_W, windows[k]) for k in ("nll", "tokens")], -1)
    errors["response_perplexity"] = standard_error(sums_Kx2, lambda m: text_metrics.perplexity(*m))
    return {f"{k}{metrics.STANDARD_ERROR}": v for k, v in errors.items() if np.isfinite(v)}


def standard_error(counts_KxM: np.ndarray, figure: Callable[[np.ndarray], float]) -> float:
    """The standard deviation of `figure` of the sum of K clusters' counts, by the bootstrap.

    Scaled as a sample's is, by sqrt(K / (K - 1)). A pure function of its arguments. NaN with fewer
    than two clusters.
    """
    clusters = len(counts_KxM)
    if clusters < 2:
        return float("nan")
    figures = [figure(sum_M) for sum_M in _resamples(clusters) @ counts_KxM]
    return float(np.std(figures)) * math.sqrt(clusters / (clusters - 1))


@functools.lru_cache(maxsize=4)
def _resamples(clusters: int) -> np.ndarray:
    """int64 [RESAMPLES, K]: how often each cluster is drawn."""
    rng = np.random.default_rng(0)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES)


def confusions(cluster_x: np.ndarray, pairs_xx2: np.ndarray) -> np.ndarray:
    """int64 [K, C, C]: each cluster's labelled (rows) and guessed emotions, where labelled."""
    label_x, guess_x = np.moveaxis(pairs_xx2, -1, 0)
    known_x = label_x != UNKNOWN
    clusters, number = np.unique(cluster_x[known_x], return_inverse=True)
    counts = np.zeros((len(clusters), NUM_EMOTIONS, NUM_EMOTIONS), np.int64)
    np.add.at(counts, (number, label_x[known_x], guess_x[known_x]), 1)
    return counts


def sizes(split: Split, image_WxNx2: np.ndarray, generated: int) -> dict[str, int]:
    """How many "windows", "conversations", different labelled "faces" and "generated" responses the
    figures rest on."""
    windows, slots = image_WxNx2.shape[:2]
    labelled_WxN = image_WxNx2[..., 0] != UNKNOWN
    return {
        "windows": windows,
        "conversations": len(np.unique(conversations(split)[:windows])),
        "faces": len(np.unique(image_of_slots(split, windows, slots)[labelled_WxN])),
        "generated": generated,
    }


def conversations(split: Split) -> np.ndarray:
    """int64 [windows of the split]: the number of each window's episode, from 1."""
    return np.cumsum(split.turns.turn_in_episode == 0)[split.response_turn]


def image_of_slots(split: Split, windows: int, slots: int) -> np.ndarray:
    """int64 [windows, slots]: the record of each slot's image, NO_IMAGE where there is none."""
    image_WxN = np.full((windows, slots), store.NO_IMAGE, np.int64)
    for i in range(windows):
        first, last = split.turn_range(i)
        image_WxN[i, : last - first + 1] = split.turns.image[first : last + 1]
    return image_WxN
