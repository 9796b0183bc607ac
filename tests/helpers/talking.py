"""A responder of the smallest model, drawn at random, and faces to show it."""

import io
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import small
from ml_collections import ConfigDict
from PIL import Image

from igerg_jax.data import tokenizers
from igerg_jax.evaluation.responder import Responder
from igerg_jax.run import workdirs
from igerg_jax.setup import Setup, set_up
from igerg_jax.tools.weights import parameters

WORDS = [f"{a} {b} {c}" for a in "abcdefghz" for b in "ijklmnop" for c in "qrstuvwx"]
VOCABULARY = 288


class Drawn(NamedTuple):
    config: ConfigDict
    tokenizer: tokenizers.Tokenizer
    setup: Setup
    params: dict  # on the setup's device

    def make_responder(self) -> Responder:
        return Responder(self.setup, self.tokenizer, self.params)

    def save(self, workdir: pathlib.Path) -> None:
        """Leaves what a run does in its workdir."""
        self.tokenizer.save(workdir / workdirs.TOKENIZER_FILE)
        (workdir / workdirs.CONFIG_FILE).write_text(self.config.to_json_best_effort())
        params = jax.device_get(self.params)
        parameters.write(workdir, params, self.config, self.tokenizer.digest)


def draw_model() -> Drawn:
    """On one device; its parameters are large, so that everything that should matter does."""
    tokenizer = tokenizers.train_sentencepiece(WORDS, "unigram", VOCABULARY)
    config = small.with_pixels(small.make_config(data__tokenizer__vocab_size=VOCABULARY))
    config.generate.update(strategy="greedy", max_tokens=6, beams=2)
    setup = set_up(config, tokenizer.vocab_size, tokenizer.special, jax.devices()[:1])
    params = small.make_params(setup.model, small.make_batch(config, batch_size=1), spread=0.5)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract_params)
    return Drawn(config, tokenizer, setup, jax.device_put(params, shardings))


def face(seed: int, side: int = 16) -> np.ndarray:
    """uint8 [side, side, 3]: noise, another for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
