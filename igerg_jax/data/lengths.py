"""How long a split's windows are, and what share of them is truncated."""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.data import store
from igerg_jax.data.windows import Split


class Counts(NamedTuple):
    """Sizes of a split's W windows, before truncation; with `data.reverse`, as it leaves them.

    Attributes:
      context, response: int64[W] tokens, every turn's EOS included.
      images: int64[W], the images that a window shows.
    """

    context: np.ndarray
    response: np.ndarray
    images: np.ndarray


def count(split: Split, config: ConfigDict) -> Counts:
    """Counts a split's windows; reads no image and no word."""
    turns, last_W = split.turns, split.response_turn
    before_W = np.minimum(config.data.context_turns, turns.turn_in_episode[last_W])
    if split.standalone:
        before_W = np.zeros_like(last_W)
    first_W = last_W - before_W
    lengths = turns.token_counts()
    tokens = np.concatenate([[0], np.cumsum(lengths + 1)])  # a turn's, and its EOS
    shown = np.concatenate([[0], np.cumsum(turns.image != store.NO_IMAGE)])
    response = lengths[last_W] + 1
    if split.standalone:
        context = response = np.where(lengths[last_W] > 0, response, 0)
    else:
        context = tokens[last_W] - tokens[first_W]
    ends = last_W + (config.data.include_response_image or split.standalone)
    images = (shown[ends] - shown[first_W]) * config.data.use_images
    if config.data.reverse:
        context, response = response, context
    return Counts(context, response, images)


def cut_tokens(split: Split, window: int, config: ConfigDict) -> dict[str, int]:
    """{"context", "response": how many of a window's tokens are truncated}, without zeros."""
    counts, data = count(split, config), config.data
    limits = {"context": data.context_tokens, "response": data.response_tokens}
    over = {name: int(getattr(counts, name)[window]) - limit for name, limit in limits.items()}
    return {name: tokens for name, tokens in over.items() if tokens > 0}


def cut_shares(split: Split, config: ConfigDict) -> dict[str, float]:
    """What share of a split's contexts and responses is truncated to fit into a batch.

    Returns:
      "contexts" and "responses": the shares, 0..1; "context_tokens" and "response_tokens": the
      lengths they are truncated to. {} if no window has words.
    """
    counts, data = count(split, config), config.data
    spoken_W = counts.response > 0
    if not spoken_W.any():
        return {}
    return {
        "contexts": float((counts.context[spoken_W] > data.context_tokens).mean()),
        "responses": float((counts.response[spoken_W] > data.response_tokens).mean()),
        "context_tokens": data.context_tokens,
        "response_tokens": data.response_tokens,
    }
