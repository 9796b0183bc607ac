"""Times of several sides that take turns, so that what else runs on the machine disturbs all."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a call: by the clock, of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def medians(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """{side: float64[2], the medians of `timed`}. Each has been called once before."""
    for call in calls.values():
        call()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(timed(call))
    return {name: np.median(each, axis=0) for name, each in seconds.items()}
