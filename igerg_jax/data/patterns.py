"""Sequences in which a few sources alternate with exact shares."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

_LONGEST = 10_000  # period of a pattern


def pattern(weights: Sequence[float]) -> np.ndarray:
    """Returns int64[P]: the shortest sequence in which each number i has its weight's share.

    Among the numbers that lag far enough behind their share, the one with the earliest deadline
    comes next (Tijdeman, "The chairman assignment problem", 1980). So with k weights, the first n
    entries contain n times each share to within 1 - 1 / (2k - 2), and any n consecutive entries of
    the repeated sequence to within twice that. (Choosing the number that lags most has no such
    bound: with 30 weights the deviation exceeds two.)

    Raises ValueError for weights that are not positive, or whose ratio needs too long a sequence.
    """
    numbers = (isinstance(w, int | float) and w > 0 and math.isfinite(w) for w in weights)
    if not weights or not all(numbers):
        raise ValueError("weights must be positive numbers")
    fractions = [Fraction(w).limit_denominator(_LONGEST) for w in weights]
    scale = math.lcm(*(f.denominator for f in fractions))
    counts = [int(f * scale) for f in fractions]  # Python integers: no overflow
    if not all(counts):
        raise ValueError(f"weights must be at least {1 / _LONGEST}")
    divisor = math.gcd(*counts)
    length = sum(counts) // divisor
    if length > _LONGEST:
        raise ValueError(f"the ratio needs {length} examples to be exact; round the weights")
    counts = np.array([count // divisor for count in counts], np.int64)
    out, emitted = np.empty(length, np.int64), np.zeros(len(counts), np.int64)
    unit = max(2 * len(counts) - 2, 1)  # exact arithmetic: lags in units of 1 / (unit * length)
    for place in range(length):
        lag = (counts * (place + 1) - emitted * length) * unit
        spare = ((unit - 1) * length - lag) / counts  # places until its deadline
        chosen = int(np.argmin(np.where(lag >= length, spare, np.inf)))
        out[place] = chosen
        emitted[chosen] += 1
    return out


def occurrences(
    pattern_P: np.ndarray, positions_B: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (number, bool[B] where it is, int64 its count before each of these places).

    Args:
      pattern_P: int64[P], repeated forever.
      positions_B: int64[B], places in that endless sequence.
    """
    rounds_B, place_B = np.divmod(positions_B, len(pattern_P))
    number_B = pattern_P[place_B]
    for number in np.unique(number_B):
        is_number_P, at_B = pattern_P == number, number_B == number
        earlier_P = np.cumsum(is_number_P) - is_number_P
        yield int(number), at_B, rounds_B[at_B] * is_number_P.sum() + earlier_P[place_B[at_B]]
