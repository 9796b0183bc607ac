"""A tiny dataset, a random model on two devices, and what an evaluation of it leaves."""

import collections
import math

import jax
import numpy as np
import small

from igerg_jax import setup, storage
from igerg_jax.data.prepare import prepare
from igerg_jax.evaluation.evaluator import Evaluator
from igerg_jax.evaluation.final_evaluation import evaluate_run

FOLLOWING = 3  # windows, each answered seven times
EXAMPLES, GENERATED, SAMPLES = 13, 5, 6  # of batches of 8: the last one holds padding


def make_config(data_dir, **changes):
    config = small.with_pixels(small.make_config())
    config.data.update(dataset="chitchat_peeps/tiny", data_dir=str(data_dir))
    config.data.update(context_tokens=24, response_tokens=12)
    config.data.tokenizer.vocab_size = 512
    config.model.text.max_positions = 24
    config.evaluate.update(batch_size=8, examples=EXAMPLES, generated_examples=GENERATED)
    config.generate.update(strategy="greedy", max_tokens=8, examples=SAMPLES)
    config.evaluate.following_examples = FOLLOWING
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


class World:
    """A prepared data set, a model on two devices, and what an evaluation of it leaves."""

    def __init__(self, config, workdir):
        self.prepared = prepare(config)
        self.setup = set_up(config, self.prepared)
        batch = small.make_batch(config, batch_size=1)
        params = small.make_params(self.setup.model, batch, spread=0.5)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.setup.abstract_params)
        self.params = jax.device_put(params, shardings)
        self.evaluator = Evaluator(self.setup, self.prepared)
        self.workdir = workdir
        self.out = evaluate_run(self.evaluator, config, self.params, workdir)
        self.samples = storage.read_json_lines(workdir / "samples.jsonl").objects
        self.following = storage.read_json_lines(workdir / "following.jsonl").objects


def set_up(config, prepared):
    tokenizer = prepared.tokenizer
    return setup.set_up(config, tokenizer.vocab_size, tokenizer.special, jax.devices()[:2])


def slow_unigram(world, split):
    """Add-one unigrams of the training responses, on the responses that were evaluated."""
    tokenizer, kept = world.prepared.tokenizer, world.setup.config.data.response_tokens - 1

    def tokens(name, count):
        chosen = world.prepared.split(name)
        for turn in chosen.response_turn[:count]:
            yield from [*chosen.turns.tokens(turn)[:kept], tokenizer.special.eos]

    seen = collections.Counter(tokens("train", None))
    total = seen.total() + tokenizer.vocab_size
    return math.exp(-np.mean([math.log((seen[t] + 1) / total) for t in tokens(split, EXAMPLES)]))
