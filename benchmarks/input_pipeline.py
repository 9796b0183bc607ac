"""Throughput of the training input pipeline against a PyTorch DataLoader, and its memory use.

    python -m benchmarks.input_pipeline --out=speed.json
    python -m benchmarks.input_pipeline --mode=memory --out=memory.json

Prints JSON. `speed` generates JPEGs with the dimensions and file size of film stills, prepares them
like any folder of images (`emotion_folder`), and reads them as training does
(`igerg_jax.data.pipeline.train_batches`): batches of 64 examples with one image each, randomly
cropped to 224 pixels, flipped and colour-jittered. The other sides do the same work with other
libraries (benchmarks/loader_peers.py): PyTorch's DataLoader over torchvision.transforms.v2 on
tensors (`torchvision`), over simplejpeg and OpenCV (`turbojpeg`) and over Pillow (`pillow`, and
`pillow_draft`, whose decoder may halve an image), and Grain over the same function as `turbojpeg`.
`decoding` only decodes, into memory that it uses again: what no side can do without. By default all
sides run whose libraries are installed.
The sides take turns, each in its own process, pinned to the same cores. If anything else is using
the cores, images per second mean little; CPU time per image still does.

Only this benchmark needs the other libraries:
pip install torch==2.13.0 torchvision==0.28.0 simplejpeg==1.9.0 opencv-python-headless grain==0.2.18

`memory` reads batches of the local preset, which are small and fast to make, and reports the
process's resident memory after a warm-up, along the way and at the end.
"""

import argparse
import functools
import importlib.util
import itertools
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata

import numpy as np
from PIL import Image

from benchmarks import rows
from benchmarks.rows import Row
from configs import pretrain
from igerg_jax.batch import EMOTIONS
from igerg_jax.run import command_line
from igerg_jax.run.provenance import cpu_model

BATCH_SIZE, IMAGE_SIZE = 64, 224
STILL_HEIGHT, STILL_WIDTH = 320, 400
NOISE, QUALITY = 35.0, 90  # gives 81 KB per still
WARM_UP_BATCHES = 8
DATASET = "emotion_folder/stills"
PACKAGES = ("tensorflow", "tensorflow_cpu", "torch", "torchvision", "pillow", "grain")
PACKAGES += ("simplejpeg", "opencv-python-headless")


def main() -> None:
    """Runs one mode or, when started by this script itself, one side of it."""
    options = _options()
    if options.side:
        os.sched_setaffinity(0, options.cores)
        print(json.dumps(SIDES[options.side](options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {"speed": speed, "memory": memory}[options.mode](options, folder)
    text = json.dumps(results | {"machine": _machine(options)}, indent=2)
    print(text)
    if options.out:
        pathlib.Path(options.out).write_text(text + "\n")
    if options.mode == "speed":
        rows.write(speed_rows(results["cpu_milliseconds_per_image"]), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mode", choices=("speed", "memory"), default="speed")
    parser.add_argument("--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per side")
    parser.add_argument("--stills", type=int, default=700, help="JPEGs to generate")
    parser.add_argument("--sides", nargs="+", default=_installed(), choices=SPEED_SIDES)
    parser.add_argument("--batches", type=int, default=5000, help="for --mode=memory")
    parser.add_argument("--warm_up", type=int, default=500, help="batches before measuring")
    parser.add_argument("--dataset", default="chitchat_peeps", help="for --mode=memory")
    parser.add_argument("--out", help="also write the JSON to this file")
    rows.add_option(parser)
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def speed(options: argparse.Namespace, folder: str) -> dict:
    """Images per second of each side, measured in turn."""
    sizes = make_stills(pathlib.Path(folder), options.stills)
    runs: dict[str, list[dict]] = {side: [] for side in options.sides}
    for _ in range(options.rounds):
        for side in list(runs):
            try:
                runs[side].append(_run_side(side, options, folder))
            except subprocess.CalledProcessError:  # as where torchvision is of another torch
                print(f"{side} failed, and is left out", file=sys.stderr)
                del runs[side]
                continue
            print(f"{side}: {runs[side][-1]['images_per_second']:.0f} images/s", file=sys.stderr)
    speeds, costs, starts = (
        {
            side: statistics.median(run[what] for run in side_runs)
            for side, side_runs in runs.items()
        }
        for what in (
            "images_per_second",
            "cpu_milliseconds_per_image",
            "cpu_seconds_to_first_batch",
        )
    )
    ours = costs.get("igerg_jax")
    return {
        "batch": f"{BATCH_SIZE} examples, one image of {IMAGE_SIZE} pixels per side each",
        "stills": f"{options.stills} JPEGs of {STILL_WIDTH}x{STILL_HEIGHT}, quality {QUALITY}",
        "mean_jpeg_bytes": round(statistics.mean(sizes)),
        "augment": _config(options).data.augment.to_dict(),
        "images_per_second": {side: round(value, 1) for side, value in speeds.items()},
        "cpu_milliseconds_per_image": {side: round(value, 3) for side, value in costs.items()},
        "cpu_seconds_to_first_batch": {side: round(value, 2) for side, value in starts.items()},
        "times_our_cpu": {side: round(value / ours, 2) for side, value in costs.items() if ours},
        "runs": runs,
    }


def speed_rows(milliseconds: dict[str, float]) -> list[Row]:
    """A row for each of our sides, beside the best of the other loaders."""
    seconds = {side: value / 1000 for side, value in milliseconds.items()}
    best = min((side for side in PEERS if side in seconds), key=seconds.get, default="")
    absent = ", ".join(side for side in PEERS if side not in seconds)
    return [
        Row(
            f"an image read and augmented: `{backend}`",
            seconds[side],
            {f"the best other loader, `{best}`": seconds[best]} if best else {},
            least=seconds.get("decoding", 0.0),
            least_is="decoding",
            note=f"loaders that did not run: {absent}" if absent else "",
        )
        for side, backend in OURS.items()
        if side in seconds
    ]


def memory(options: argparse.Namespace, folder: str) -> dict:
    """Resident memory while reading many batches of the local preset."""
    return _run_side("memory", options, folder)


def make_stills(folder: pathlib.Path, count: int) -> list[int]:
    """Writes JPEGs as <folder>/stills/train/<emotion>/*.jpg; returns their sizes in bytes.

    They are soft patches of colour under film grain, which accounts for most of the bytes.
    """
    rng, sizes = np.random.default_rng(0), []
    for number in range(count):
        patches = rng.integers(0, 256, (8, 10, 3), np.uint8)
        soft = Image.fromarray(patches).resize((STILL_WIDTH, STILL_HEIGHT), Image.BICUBIC)
        grain = rng.normal(0, NOISE, (STILL_HEIGHT, STILL_WIDTH, 1))
        still = np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8)
        place = folder / "stills" / "train" / EMOTIONS[number % len(EMOTIONS)]
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{number:05d}.jpg"
        Image.fromarray(still).save(path, quality=QUALITY)
        sizes.append(path.stat().st_size)
    return sizes


def _run_side(side: str, options: argparse.Namespace, folder: str) -> dict:
    """Runs one measurement in its own process."""
    command = [sys.executable, "-m", "benchmarks.input_pipeline", f"--side={side}"]
    command += [f"--folder={folder}", "--cores", *map(str, options.cores)]
    names = ("seconds", "batches", "warm_up", "dataset")
    command += [f"--{name}={getattr(options, name)}" for name in names]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _timed(batches: Iterator, seconds: float, count: Callable) -> dict:
    """Images per second after a warm-up, and CPU time per image and to the first batch."""
    next(batches)
    first = _cpu_seconds()
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    images, start, cpu_start = 0, time.perf_counter(), _cpu_seconds()
    while (taken := time.perf_counter() - start) < seconds:
        images += count(next(batches))
    used = _cpu_seconds() - cpu_start
    return {
        "images": images,
        "seconds": taken,
        "images_per_second": images / taken,
        "cpu_milliseconds_per_image": 1000 * used / images,
        "cpu_seconds_to_first_batch": first,
    }


def _cpu_seconds() -> float:
    """CPU time of this process and of its multiprocessing workers."""
    used = time.process_time()
    for child in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def _config(options: argparse.Namespace):
    config = pretrain.get_config("base")
    config.train.batch_size = BATCH_SIZE
    config.data.update(dataset=DATASET, image_size=IMAGE_SIZE, context_turns=0)
    config.data.update(read_threads=len(options.cores), prefetch_batches=4)
    return config


def igerg_jax_side(backend: str, options: argparse.Namespace) -> dict:
    """This repository's training batches; `backend` is data.image_backend."""
    command_line.quieten()
    from igerg_jax.data import pipeline, prepare  # here: not in the peers' processes

    config = _config(options)
    folder = pathlib.Path(options.folder)
    config.data.update(data_dir=f"{folder}/data", manual_dir=str(folder), prepare_workers=1)
    config.data.tokenizer.path = str(_tokenizer(folder))
    config.data.image_backend = backend
    prepared = prepare.prepare(config)
    batches = pipeline.train_batches(prepared, config, 0, np.arange(BATCH_SIZE))
    return _timed(batches, options.seconds, lambda batch: int(batch["image_mask"].sum()))


def _tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """Stills have no text, but every prepared dataset needs a tokenizer."""
    from igerg_jax.data import tokenizers  # here: not in the peers' processes

    path = folder / "tokenizer.model"
    if not path.exists():
        tokenizers.train_sentencepiece([" ".join(EMOTIONS)], "bpe", 290).save(path)
    return path


def peer_side(load: str, loader: str, options: argparse.Namespace) -> dict:
    """A loader of benchmarks/loader_peers.py."""
    from benchmarks import loader_peers  # here: not in our process

    finish = getattr(loader_peers, load)(_config(options).data.augment, IMAGE_SIZE)
    stills = loader_peers.Stills(options.folder, finish)
    batches = getattr(loader_peers, loader)(stills, BATCH_SIZE, len(options.cores))
    return _timed(batches, options.seconds, len)


def decoding_side(options: argparse.Namespace) -> dict:
    """Decodes the stills, and does nothing else."""
    import simplejpeg

    stills = pathlib.Path(options.folder, "stills")
    jpegs = itertools.cycle([path.read_bytes() for path in sorted(stills.rglob("*.jpg"))])
    pixels = np.empty((STILL_HEIGHT, STILL_WIDTH, 3), np.uint8)

    def batches() -> Iterator[int]:
        while True:
            for jpeg in itertools.islice(jpegs, BATCH_SIZE):
                simplejpeg.decode_jpeg(jpeg, fastdct=True, buffer=pixels)
            yield BATCH_SIZE

    return _timed(batches(), options.seconds, int)


def memory_side(options: argparse.Namespace) -> dict:
    """Resident memory in MB, in total and without file mappings, by number of batches read."""
    command_line.quieten()
    from igerg_jax.data import pipeline, prepare  # here: not in the peers' processes

    config = pretrain.get_config()
    config.data.dataset = options.dataset
    prepared = prepare.prepare(config)
    rows_b = np.arange(config.train.batch_size)
    batches = pipeline.train_batches(prepared, config, 0, rows_b)
    seen, start = {}, time.perf_counter()
    for number, _ in enumerate(itertools.islice(batches, options.batches), 1):
        if number in (options.warm_up, options.batches) or number % 1000 == 0:
            seen[number] = _resident()
    first, last = seen[options.warm_up], seen[options.batches]
    return {
        "batches": options.batches,
        "warm_up_batches": options.warm_up,
        "dataset": options.dataset,
        "seconds": time.perf_counter() - start,
        "megabytes": seen,
        "growth_megabytes": {key: round(last[key] - first[key], 1) for key in first},
    }


def _resident() -> dict[str, float]:
    status = pathlib.Path("/proc/self/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return {
        name: round(int(lines[key].split()[0]) / 1024, 1)
        for name, key in (("resident", "VmRSS"), ("not_of_files", "RssAnon"))
    }


# {side: (class, loader) of benchmarks/loader_peers.py}
PEERS = {
    "torchvision": ("TorchVision", "torch_loader"),
    "turbojpeg": ("TurboJpeg", "torch_loader"),
    "grain": ("TurboJpeg", "grain_loader"),
    "pillow": ("Pillow", "torch_loader"),
    "pillow_draft": ("PillowDraft", "torch_loader"),
}
# {side: data.image_backend}
OURS = {"igerg_jax": "numpy", "igerg_jax_opencv": "opencv", "igerg_jax_tensorflow": "tensorflow"}
SPEED_SIDES = [*OURS, *PEERS, "decoding"]
# {side: the modules that it needs, besides those of requirements.txt}
NEEDS = {
    "igerg_jax_opencv": ("cv2",),
    "torchvision": ("torch", "torchvision"),
    "turbojpeg": ("torch", "cv2"),
    "grain": ("grain", "cv2"),
    "pillow": ("torch",),
    "pillow_draft": ("torch",),
}
SIDES = {
    **{name: functools.partial(igerg_jax_side, of) for name, of in OURS.items()},
    **{name: functools.partial(peer_side, *names) for name, names in PEERS.items()},
    "decoding": decoding_side,
    "memory": memory_side,
}


def _installed() -> list[str]:
    """The sides that can run here."""
    needed = {side: NEEDS.get(side, ()) for side in SPEED_SIDES}
    return [side for side, names in needed.items() if all(map(importlib.util.find_spec, names))]


def _machine(options: argparse.Namespace) -> dict:
    machine = {"cpu": cpu_model(), "cores": len(options.cores)}
    for package in PACKAGES:
        try:
            machine[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return machine | {"python": platform.python_version(), "numpy": np.__version__}


if __name__ == "__main__":
    main()
