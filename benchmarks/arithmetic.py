"""Times models.arithmetic and models.convolution against what they replace, in turn; layers and
convolutions forward and backward.

GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.arithmetic [--rounds=15]

Milliseconds are of processor time, the median of the rounds.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import rows
from benchmarks.rows import Row
from igerg_jax.models import arithmetic, convolution

CALLS = 10  # in a round


def plain_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.tensordot(x, kernel, 1)


def plain_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    norm = nn.LayerNorm(epsilon=1e-5)
    return norm.apply({"params": {"scale": scale, "bias": bias}}, x)


plain_gelu = functools.partial(nn.gelu, approximate=False)
norm = functools.partial(arithmetic.normalise, epsilon=1e-5)


def plain_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def our_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolution.convolve(x, kernel, (1, 1), "SAME")


def layer(product: Callable, gelu: Callable, norm: Callable) -> Callable:
    """A feed-forward layer of (x, both kernels, scale, bias)."""
    return lambda x, up, down, scale, bias: (
        x + product(gelu(product(norm(x, scale, bias), up)), down)
    )


def gradients(function: Callable) -> Callable:
    """The gradients of a sum of squares, so that both passes are timed."""

    def run(*arguments):
        grad = jax.grad(lambda *x: (function(*x) ** 2).sum(), tuple(range(len(arguments))))
        return grad(*arguments)

    return run


def sample(argmax: Callable) -> Callable:
    """A token for each row of (logits, noise's key), as `decoding.strategies.Sample` draws it."""
    return lambda logits, key: argmax(jax.random.gumbel(key, logits.shape) + logits)


def count(argmax: Callable) -> Callable:
    """The softmax's denominators, and how many of the rows' likeliest classes are the targets."""
    return lambda logits, targets: (
        jax.nn.logsumexp(logits, axis=-1).sum(),
        (argmax(logits) == targets).sum(),
    )


def compare(
    name: str, functions: Mapping[str, Callable], arguments: tuple, rounds: int, flop: float = 0
) -> Row:
    """Prints each function's milliseconds and seconds to compile; the row has the first and last.

    Args:
      flop: FLOPs of the products, 0 = not counted.
    """
    programs, compiling = {}, {}
    for key, function in functions.items():
        start = time.perf_counter()
        programs[key] = jax.jit(function).lower(*arguments).compile()
        compiling[key] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {key: [] for key in functions}
    for _ in range(rounds):
        for key, program in programs.items():
            start = time.process_time()
            for _ in range(CALLS):
                out = program(*arguments)
            jax.block_until_ready(out)
            seconds[key].append((time.process_time() - start) / CALLS)
    medians = {key: statistics.median(taken) for key, taken in seconds.items()}
    figures = (
        f"{key} {1000 * median:.2f} ms (compiled in {compiling[key]:.2f} s)"
        for key, median in medians.items()
    )
    print(f"{name}: {'; '.join(figures)}", flush=True)
    plain, *_, ours = medians.values()
    return Row(name, ours, {"XLA's own": plain}, flop=flop)


def measure(rounds: int) -> list[Row]:
    """Compares all of them."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    x, hidden = normal(32, 64, 192), normal(32, 64, 768)
    up, down = normal(192, 768) / 14, normal(768, 192) / 28
    scale, bias = jnp.ones(192), jnp.zeros(192)
    product, gelu = arithmetic.product, arithmetic.gelu
    flop = 3 * 2 * x.size * up.shape[1]  # of one product, forward and backward
    products = {"plain": gradients(plain_product), "ours": gradients(product)}
    gelus = {"plain": gradients(plain_gelu), "ours": gradients(gelu)}
    norms = {"plain": gradients(plain_norm), "ours": gradients(norm)}
    layers = {
        "plain": layer(plain_product, plain_gelu, plain_norm),
        "our product": layer(product, plain_gelu, plain_norm),
        "our GELU": layer(plain_product, gelu, plain_norm),
        "our norm": layer(plain_product, plain_gelu, norm),
        "all ours": layer(product, gelu, norm),
    }
    layers = {key: gradients(function) for key, function in layers.items()}
    argmaxes = {"plain": functools.partial(jnp.argmax, axis=-1), "ours": arithmetic.argmax}
    drawn = {key: sample(argmax) for key, argmax in argmaxes.items()}
    counted = {key: count(argmax) for key, argmax in argmaxes.items()}
    zeros = jnp.zeros(640, jnp.int32)
    measured = [
        compare("product", products, (x, up), rounds, flop),
        compare("GELU", gelus, (hidden,), rounds),
        compare("layer norm", norms, (x, scale, bias), rounds),
        compare("layer", layers, (x, up, down, scale, bias), rounds, 2 * flop),
        compare("sample", drawn, (normal(256, 2048), jax.random.key(0)), rounds),
        compare("count", counted, (normal(640, 2048), zeros), rounds),
    ]
    convolutions = {"plain": gradients(plain_convolution), "ours": gradients(our_convolution)}
    for side, channels in ((24, 32), (12, 64), (6, 128), (3, 256)):
        images, kernel = normal(128, side, side, channels), normal(3, 3, channels, channels)
        name, flop = f"convolution, {channels} channels", 3 * 2 * images.size * 9 * channels
        measured.append(compare(name, convolutions, (images, kernel), rounds, flop))
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rows.add_option(parser)
    options = parser.parse_args()
    rows.write(measure(options.rounds), options)


if __name__ == "__main__":
    main()
