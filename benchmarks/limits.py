"""What a core can do at most: float32 products, and reading and copying memory.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.limits [--rounds=7]

Rates are per second of processor time, of all threads together, so they are those of one core; each
is the best of the rounds, in which all take turns. Products are XLA's, of the matrices that
`train_cpu` multiplies and of square ones. Memory is read by NumPy's dot product of a vector with
itself, and copied by its copyto, which reads and writes: vectors of 512 MB, more than caches hold.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import in_turns, rows
from benchmarks.rows import Limits, Row

PRODUCTS = ((2128, 768, 3072), (1024, 1024, 1024), (2048, 2048, 2048))
VECTOR = 2**27  # numbers of float32


def product(m: int, k: int, n: int) -> Callable[[], jax.Array]:
    """Multiplies [m, k] by [k, n] once."""
    a, b = jnp.ones((m, k)), jnp.ones((k, n))
    compiled = jax.jit(jnp.matmul).lower(a, b).compile()
    return lambda: compiled(a, b).block_until_ready()


def calls() -> dict[str, tuple[Callable, float, float]]:
    """{what: (a call of it, its FLOPs, the bytes that it moves)}."""
    source, target = np.ones(VECTOR, np.float32), np.ones(VECTOR, np.float32)
    found = {
        f"product [{m}, {k}] x [{k}, {n}]": (product(m, k, n), 2.0 * m * k * n, 0.0)
        for m, k, n in PRODUCTS
    }
    return found | {
        "reading memory": (lambda: np.dot(source, source), 0.0, float(source.nbytes)),
        "copying memory": (lambda: np.copyto(target, source), 0.0, 2.0 * source.nbytes),
    }


def measure(rounds: int) -> list[Row]:
    """A row for each of `calls`."""
    sides = calls()
    for call, *_ in sides.values():
        call()
    seconds: dict[str, list[float]] = {what: [] for what in sides}
    for _ in range(rounds):
        for what, (call, *_) in sides.items():
            seconds[what].append(in_turns.timed(call)[1])
    return [
        Row(what, min(seconds[what]), flop=flop, memory_bytes=moved)
        for what, (_, flop, moved) in sides.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rows.add_option(parser)
    options = parser.parse_args()
    measured = measure(options.rounds)
    for row in measured:
        print(f"{row.what}: {Limits.of([row])}")
    rows.write(measured, options)


if __name__ == "__main__":
    main()
