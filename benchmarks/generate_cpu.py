"""Seconds to generate on a CPU: this code, and transformers' `generate` with PyTorch, in turn.

    python -m benchmarks.generate_cpu [--rounds=5] [--only_ours] [--rows=32]

Responses of 32 tokens to 32 contexts of 64, by a model of BART-base's size in float32, greedy and
with five beams. Both sides keep a cache of keys and values, have random weights, and generate every
token: no response ends early. It needs requirements-parity.txt, unless --only_ours is given.

A round times each side once, by the clock and by processor time, which other programs disturb less.

On one core of an AMD EPYC of Zen 4, with 2 MiB pages and the other core busy (two rounds; jax
0.10.2, torch 2.13.0, transformers 5.24.0), greedy decoding takes 5.6 s and transformers' 6.2, five
beams 15.4 s and 21.9: 1.11 and 1.43 times as fast. Since then keys are cached as they are
multiplied. On one core of Zen 3, where other programs ran (two rounds, processor time), greedy
decoding takes 11.9 s and transformers' 12.2, five beams 21.5 s and 30.5: 1.03 and 1.42 times as
fast.
"""

import argparse
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import in_turns, rows
from benchmarks.rows import Row
from configs.baselines import coarse_visual
from igerg_jax import environment
from igerg_jax.batch import SENTENCEPIECE_IDS, BatchSpec, synthetic
from igerg_jax.data import parts
from igerg_jax.decoding import search
from igerg_jax.parallel import sharding
from igerg_jax.setup import Jitted, init_params, replicated_key, set_up

CONTEXT, RESPONSE, VOCABULARY = 64, 32, 50_265
BEAMS = {"greedy": 1, "beam": 5}
NAMES = {"greedy": "greedy", "beam": "five beams"}


def make_config(strategy: str, count: int) -> ConfigDict:
    """BART-base, whose context is two tokens longer: a masked image vector and CLS."""
    config = coarse_visual.get_config("paper")
    config.model.compute_dtype = "float32"
    config.data.update(context_turns=0, context_tokens=CONTEXT, response_tokens=RESPONSE)
    config.data.tokenizer.vocab_size = VOCABULARY
    config.model.text.scan_layers = False
    config.train.batch_size = count
    config.generate.update(
        strategy=strategy, beams=BEAMS[strategy], max_tokens=RESPONSE, no_repeat_ngram=0, guidance=0
    )
    return config


def make_batch(config: ConfigDict) -> dict[str, np.ndarray]:
    """Contexts without padding."""
    count = config.train.batch_size
    batch = synthetic(BatchSpec.of(config.data, count), SENTENCEPIECE_IDS, VOCABULARY, seed=0)
    words = np.random.default_rng(0).integers(1000, VOCABULARY, (count, CONTEXT), np.int32)
    return batch | {"context": words, "image_mask": np.zeros_like(batch["image_mask"])}


def ours(config: ConfigDict) -> Callable[[], np.ndarray]:
    """Generates once: the tokens."""
    setup = set_up(config, VOCABULARY, SENTENCEPIECE_IDS, jax.devices()[:1])
    init = Jitted(setup, lambda model: nn.meta.unbox(init_params(config, model, setup.spec)))
    params = init()
    batch = sharding.to_devices(make_batch(config), sharding.batch_sharding(setup.mesh))
    respond, key = search.Respond(setup), replicated_key(setup)
    return lambda: np.asarray(respond(params, batch, key).tokens_BxT)


def theirs(config: ConfigDict) -> Callable[[], np.ndarray]:
    """Generates once, with a model of the same size: the tokens."""
    import torch
    from transformers import BartForConditionalGeneration

    from benchmarks.torch_peer import bart_config

    torch.manual_seed(0)
    model = BartForConditionalGeneration(bart_config(config)).eval()
    context = torch.from_numpy(make_batch(config)["context"]).long()
    options = dict(
        num_beams=config.generate.beams,
        min_new_tokens=RESPONSE,
        max_new_tokens=RESPONSE,
        do_sample=False,
        use_cache=True,
    )

    @torch.inference_mode()
    def generate() -> np.ndarray:
        mask = torch.ones_like(context)
        return model.generate(context, attention_mask=mask, **options).numpy()[:, 1:]

    return generate


def least_work(config: ConfigDict) -> tuple[float, float]:
    """(FLOPs of the products, bytes of parameters read) to generate once, with a cache."""
    text, count = config.model.text, config.train.batch_size
    width, source = text.width, CONTEXT + 2
    attention, feed_forward = 4 * width**2, 2 * width * text.mlp_width  # numbers of a layer
    # Each beam's every token: all of a decoder layer but the keys and values of the context.
    layer = attention + attention // 2 + feed_forward
    stepped = text.decoder_layers * layer + VOCABULARY * width
    # Attention's two products: with every token of the context, and on average half a response.
    seen = text.decoder_layers * 2 * width * (source + RESPONSE // 2)
    encoder = text.encoder_layers * (attention + feed_forward + 2 * width * source)
    encoded = encoder + text.decoder_layers * attention // 2
    tokens = count * BEAMS[config.generate.strategy] * RESPONSE
    flop = 2.0 * (count * source * encoded + tokens * (stepped + seen))
    return flop, 4.0 * stepped * RESPONSE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only_ours", action="store_true", help="without PyTorch")
    parser.add_argument("--rows", type=int, default=32, help="contexts")
    rows.add_option(parser)
    options = parser.parse_args()
    environment.keep_freed_memory()  # as main.py does; it serves both sides
    sides = {"igerg_jax": ours}
    if not options.only_ours:
        import torch

        torch.set_num_threads(parts.cores())
        sides["transformers"] = theirs
    measured = []
    for strategy in BEAMS:
        config = make_config(strategy, options.rows)
        calls = {name: make(config) for name, make in sides.items()}
        for name, call in calls.items():
            tokens = call()
            assert tokens.shape == (options.rows, RESPONSE), f"{name} generated {tokens.shape}"
        medians = in_turns.medians(calls, options.rounds)
        for name, (wall, processor) in medians.items():
            print(f"{strategy}, {name}: {wall:.2f} s, {processor:.2f} s of processor time")
        if "transformers" in medians:
            faster = medians["transformers"] / medians["igerg_jax"]
            print(f"{strategy}: {faster[0]:.2f} ({faster[1]:.2f}) times as fast as transformers")
        seconds = {name: processor for name, (_, processor) in medians.items()}
        flop, read = least_work(config)
        what = f"generation, {NAMES[strategy]}: {options.rows} contexts"
        mine = seconds.pop("igerg_jax")
        measured.append(Row(what, mine, seconds, flop=flop, memory_bytes=read))
    rows.write(measured, options)


if __name__ == "__main__":
    main()
