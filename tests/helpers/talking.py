"""A responder of the smallest model, drawn at random, and faces to show it."""

from __future__ import annotations

import io
from typing import NamedTuple

import jax
import numpy as np
import small
from ml_collections import ConfigDict
from PIL import Image

from igerg_jax.data import tokenizers
from igerg_jax.evaluation.responder import Responder
from igerg_jax.setup import set_up

WORDS = [f"{a} {b} {c}" for a in "abcdefghz" for b in "ijklmnop" for c in "qrstuvwx"]
VOCABULARY = 288


class Drawn(NamedTuple):
    config: ConfigDict
    tokenizer: tokenizers.Tokenizer
    params: dict
    responder: Responder


def draw_model() -> Drawn:
    """On one device; its parameters are large, so that everything that should matter does."""
    tokenizer = tokenizers.train_sentencepiece(WORDS, "unigram", VOCABULARY)
    config = small.with_pixels(small.make_config(data__tokenizer__vocab_size=VOCABULARY))
    config.generate.update(strategy="greedy", max_tokens=6, beams=2)
    setup = set_up(config, tokenizer.vocab_size, tokenizer.special, jax.devices()[:1])
    params = small.make_params(setup.model, small.make_batch(config, batch_size=1), spread=0.5)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_params)
    placed = jax.device_put(params, shardings)
    return Drawn(config, tokenizer, params, Responder(setup, tokenizer, placed))


def face(seed: int, side: int = 16) -> np.ndarray:
    """uint8 [side, side, 3]: noise, another for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
