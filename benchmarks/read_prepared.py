"""The cost of reading prepared data: memory, and the time to the first batch at a late step.

    python -m benchmarks.read_prepared --manual_dir=DIR [--data_dir=DIR] [--batches=300]

Prepares `paired/meld+fer2013` and all of `fer2013` (DIR as in configs/meld_fer2013.py). Then, in a
separate process, reads training batches of both and every stored image once. Prints JSON. Times are
medians; step 0 and step 1,000,000 take turns.
"""

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import resource
import statistics
import sys
import time

import numpy as np
from ml_collections import ConfigDict

from benchmarks import rows
from benchmarks.rows import Row
from configs import meld_fer2013
from igerg_jax.data import pipeline
from igerg_jax.data.prepare import prepare
from igerg_jax.run import command_line

LATE_STEP = 1_000_000


def main(argv: list[str]) -> None:
    command_line.quieten()
    parser = argparse.ArgumentParser(prog="benchmarks.read_prepared")
    parser.add_argument("--manual_dir", required=True)
    parser.add_argument("--data_dir", default=meld_fer2013.get_config().data.data_dir)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9, help="timings of the first batch per step")
    rows.add_option(parser)
    options = parser.parse_args(argv)
    started = time.perf_counter()
    prepare(config_of(options))
    seconds = time.perf_counter() - started
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        results = executor.submit(read, options).result()
    print(json.dumps({"prepare_seconds": round(seconds, 1)} | results, indent=2))
    rows.write([row_of(results)], options)


def row_of(results: dict) -> Row:
    """The first batch at `LATE_STEP`, by the clock, beside that of step 0."""
    early, late = (results[f"first_batch_seconds_step_{step}"] for step in (0, LATE_STEP))
    note = f"{results['peak_resident_mb']:.0f} MB after every image was read"
    what = f"time to the first batch at step {LATE_STEP:,}, by the clock"
    return Row(what, late, {"at step 0": early}, note=note)


def config_of(options: argparse.Namespace) -> ConfigDict:
    config = meld_fer2013.get_config()
    config.data.update(manual_dir=options.manual_dir, data_dir=options.data_dir)
    config.data.mixtures = ConfigDict(
        {"faces": {"objectives": ("image_emotion",), "datasets": {"fer2013": 1.0}}}
    )
    return config


def read(options: argparse.Namespace) -> dict:
    config, out = config_of(options), {"resident_mb_imported": resident_mb()}
    rows_b = np.arange(config.train.batch_size)
    prepared = prepare(config)
    opened = [d.split(n) for d in prepared.datasets.values() for n in d.summary["splits"]]
    out["resident_mb_opened"] = resident_mb()
    batches = pipeline.train_batches(prepared, config, 0, rows_b)
    for batch in itertools.islice(batches, options.batches):
        assert batch["images"].any() and batch["faces/images"].any()
    out["resident_mb_batches"] = resident_mb()
    images = 0
    for split in opened:
        for start in range(0, total := split.turns.count_images(), 256):
            images += len(split.turns.read_images(range(start, min(start + 256, total))))
    out |= {"batches": options.batches, "images_read": images, "peak_resident_mb": resident_mb()}
    return out | first_batches(prepared, config, rows_b, options.rounds)


def first_batches(prepared, config: ConfigDict, rows_b: np.ndarray, rounds: int) -> dict:
    """Median seconds from requesting batches to the first one, at step 0 and LATE_STEP."""
    seconds: dict[int, list[float]] = {0: [], LATE_STEP: []}
    for number in range(rounds + 1):
        for step in seconds:
            started = time.perf_counter()
            batches = pipeline.train_batches(prepared, config, step, rows_b)
            next(batches)
            if number:  # the first round warms up
                seconds[step].append(time.perf_counter() - started)
            del batches
    early, late = (statistics.median(seconds[step]) for step in seconds)
    return {
        "first_batch_seconds_step_0": round(early, 4),
        f"first_batch_seconds_step_{LATE_STEP}": round(late, 4),
        "late_over_early": round(late / early, 3),
    }


def resident_mb() -> float:
    """Peak resident memory of this process so far (Linux reports KiB)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


if __name__ == "__main__":
    main(sys.argv[1:])
