"""Throughput of a training step on the local accelerator: this code, and the same work in PyTorch.

    python benchmarks/train_gpu.py                              # base and large, on one GPU
    python benchmarks/train_gpu.py --presets=base --batch_size=64 --remat=dots
    python benchmarks/train_gpu.py --tiny                       # any machine: do both sides run?

It needs requirements.txt (but not TensorFlow), requirements-gpu.txt, torch and transformers. So far
it has been run on CPUs only, with --tiny, and not on a GPU.

Batches are random and stay on the device. Each side runs in its own process, in bfloat16 with
float32 parameters and AdamW. It first measures the peak that its MFU is relative to: the best rate
of multiplying two square bfloat16 matrices.

"jax" and "torch" train the same four of the seven objectives. For B examples with N images, S
context tokens, T response tokens and K visual tokens per image, a step's forward passes are

    vision     B * N images, once
    encoder    images alone, 1 + N K; masked and shuffled words, 1 + S; images and words, twice,
               1 + N K + S
    decoder    S, to reconstruct the context; T, for the response
    vocabulary S + T + ceil(S / 4) positions

The PyTorch model is transformers' ViTModel and BartModel at the preset's sizes, with SDPA and
torch.compile. The differences cost next to nothing: post-LN, a CLS token in the ViT, turns left in
order. Each side counts the inputs of its own modules and the FLOPs of its matrix products; the
script fails if the images or tokens differ. "jax_all" is the whole preset, with all seven
objectives and the judge.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from benchmarks import rows
from configs import pretrain
from igerg_jax.batch import NUM_EMOTIONS, SENTENCEPIECE_IDS, BatchSpec, synthetic
from igerg_jax.setup import base_key
from igerg_jax.training import train_state

COMPARED = ("image_emotion", "text_denoising", "masked_multimodal", "emotional_response")
SIDES = ("jax", "torch", "jax_all")


def make_config(preset: str, options: argparse.Namespace) -> Any:
    """The preset on one device with random batches; with --tiny, a smaller local preset."""
    config = pretrain.get_config("local" if options.tiny else preset)
    config.data.dataset = "synthetic"
    config.mesh.update(dcn=1, data=1, fsdp=1, tensor=1)
    config.model.compute_dtype = "bfloat16"
    config.model.vision.remat = config.model.text.remat = options.remat
    if options.tiny:
        config.model.vision.update(stem="patch", tokens_per_image=2, scan_layers=True)
        config.model.text.scan_layers = True
        config.data.tokenizer.vocab_size = 512
    config.train.batch_size = options.batch_size
    return config


def only_compared(config: Any) -> None:
    """Switches off the objectives that the PyTorch side does not have."""
    for name, objective in config.objectives.items():
        objective.weight = float(name in COMPARED)
    config.objectives.emotional_response.consistency_weight = 0.0


def best_rate(run, flops: float, repeats: int = 5) -> float:
    """FLOP/s of the fastest of several calls, not counting the first, which compiles."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return flops / min(seconds[1:])


def jax_side(config: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Step time, peak FLOP/s and the inputs of a step, for this code."""
    import jax
    import jax.numpy as jnp

    from igerg_jax.parallel import sharding
    from igerg_jax.training import model_flops, train_step

    n, products = options.matmul, 10
    a = jnp.ones((n, n), jnp.bfloat16)
    chain = jax.jit(lambda a, x: jax.lax.fori_loop(0, products, lambda _, y: (a @ y) * 0.5, x))
    peak = best_rate(lambda: chain(a, a).block_until_ready(), products * 2 * n**3)

    setup = train_state.set_up_training(
        config, config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS, jax.devices()[:1]
    )
    inputs = count_inputs(setup)
    started = time.perf_counter()
    compiled = train_step.lower_step(setup).compile()
    compile_seconds = time.perf_counter() - started
    host = synthetic(setup.spec, SENTENCEPIECE_IDS, setup.model.vocab_size, seed=0)
    batch = sharding.to_devices(host, sharding.batch_sharding(setup.mesh))
    state = train_state.init_state(setup)
    seconds = []
    for count in (options.warmup, options.steps):
        started = time.perf_counter()
        for _ in range(count):
            state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append((time.perf_counter() - started) / count)
    return {
        "device": jax.devices()[0].device_kind,
        "seconds": seconds[-1],
        "peak": peak,
        "flops": model_flops.model_flops(setup),
        "compile_seconds": compile_seconds,
        "loss": float(metrics["loss/total"]),
        **inputs,
    }


def count_inputs(setup: Any) -> dict[str, int]:
    """Counts the images and tokens that a forward pass feeds to the model's three parts."""
    import flax.linen as nn
    import jax

    from igerg_jax.objectives import combination

    inputs = dict.fromkeys(("images", "encoder_tokens", "decoder_tokens"), 0)
    parts = {"vision_tower": "images", "encoder": "encoder_tokens", "decoder": "decoder_tokens"}

    def watch(call, args, kwargs, context):
        # "encoder" is not a unique name in the model; the text encoder is the one at the top level.
        path = context.module.path
        if context.method_name == "__call__" and len(path) == 1 and path[0] in parts:
            x = args[0]
            inputs[parts[path[0]]] += x.shape[0] * (1 if path[0] == "vision_tower" else x.shape[1])
        return call(*args, **kwargs)

    def forward(params, batch):
        key = base_key(setup.config)
        return combination.sums(setup.config, setup.model, params, batch, key, 0)[1]

    shapes = setup.spec.shapes().items()
    batch = {name: jax.ShapeDtypeStruct(*kind) for name, kind in shapes}
    with nn.intercept_methods(watch):
        jax.eval_shape(forward, setup.abstract_state.params, batch)
    return inputs


def torch_side(config: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The same, for PyTorch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from torch_peer import Peer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    torch.manual_seed(0)
    n, products = options.matmul, 10
    a = torch.ones((n, n), dtype=torch.bfloat16, device=device)

    def chain():
        y = a
        for _ in range(products):
            y = a @ y
        wait()

    peak = best_rate(chain, products * 2 * n**3)
    spec = BatchSpec.of(config.data, config.train.batch_size)
    host = synthetic(spec, SENTENCEPIECE_IDS, config.data.tokenizer.vocab_size, seed=0)
    batch = {k: torch.from_numpy(v).to(device) for k, v in host.items()}
    batch = {k: v.long() if v.dtype == torch.int32 else v for k, v in batch.items()}
    model = Peer(config, SENTENCEPIECE_IDS, NUM_EMOTIONS).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=device == "cuda")
    cast = lambda: torch.autocast(device, torch.bfloat16)  # noqa: E731
    with cast(), FlopCounterMode(display=False) as counter:
        model(batch)
    inputs = dict(model.inputs)
    compiled = torch.compile(model) if options.compile else model

    def step():
        with cast():
            loss = compiled(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    seconds, marks = [], []
    for count in (1, options.warmup, options.steps):
        started = time.perf_counter()
        for _ in range(count):
            loss = step()
        wait()
        marks.append(time.perf_counter() - started)
        seconds.append(marks[-1] / count)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "seconds": seconds[-1],
        "peak": peak,
        "flops": 3 * counter.get_total_flops(),
        "compile_seconds": marks[0],
        "loss": float(loss.detach()),
        **inputs,
    }


def measure(preset: str, side: str, argv: list[str]) -> dict[str, Any]:
    """Runs one side in its own process, so that its memory is free for the next."""
    command = [sys.executable, __file__, *argv, f"--presets={preset}", f"--side={side}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def row_of(preset: str, results: dict[str, dict], compiled: bool) -> rows.Row:
    """The compared sides' seconds by the clock; the limit is the products', at JAX's peak."""
    ours, name = results["jax"], "`torch.compile`" if compiled else "PyTorch eager"
    return rows.Row(
        f"training step of {preset} on a {ours['device']}, by the clock",
        ours["seconds"],
        {name: results["torch"]["seconds"]},
        least=ours["flops"] / ours["peak"],
        least_is="bfloat16 products",
    )


def main(argv: list[str]) -> int:
    """Prints a line per preset and side; returns 1 if the sides did different work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="base,large")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--remat", default="none", help="for the JAX sides: none, dots, full")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--matmul", type=int, default=8192, help="matrix size for the peak")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--side", choices=SIDES, help="run only this side; prints JSON")
    rows.add_option(parser)
    options = parser.parse_args(argv)
    if options.side:
        config = make_config(options.presets, options)
        if options.side != "jax_all":
            only_compared(config)
        run = torch_side if options.side == "torch" else jax_side
        print(json.dumps(run(config, options)))
        return 0
    if options.tiny:  # only checks that it runs, so compile quickly
        quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        os.environ.setdefault("XLA_FLAGS", quick)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    same, measured = True, []
    for preset in ["tiny"] if options.tiny else options.presets.split(","):
        results = {side: measure(preset, side, argv) for side in SIDES}
        measured.append(row_of(preset, results, options.compile))
        for side, row in results.items():
            rate = options.batch_size / row["seconds"]
            print(
                f"{preset:6} {side:8} {rate:9.1f} examples/s  {row['seconds'] * 1e3:8.1f} ms  "
                f"MFU {row['flops'] / row['seconds'] / row['peak']:.1%} of {row['peak'] / 1e12:.2f}"
                f" TFLOP/s  {row['flops'] / 1e12:.4f} TFLOP  loss {row['loss']:.2f}  "
                f"first step after {row['compile_seconds']:.0f} s  on {row['device']}"
            )
        names = ("images", "encoder_tokens", "decoder_tokens")
        inputs = [{name: results[side][name] for name in names} for side in ("jax", "torch")]
        ratio = results["torch"]["flops"] / results["jax"]["flops"]
        print(f"{preset:6} inputs per step {inputs[0]}; FLOPs torch / jax {ratio:.3f}")
        if inputs[0] != inputs[1] or not math.isclose(ratio, 1, abs_tol=0.1):
            print(f"error: the sides did different work: torch {inputs[1]}", file=sys.stderr)
            same = False
    rows.write(measured, options)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
