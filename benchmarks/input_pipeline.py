"""Throughput of the training input pipeline against a PyTorch DataLoader, and its memory use.

    python -m benchmarks.input_pipeline --out=speed.json
    python -m benchmarks.input_pipeline --mode=memory --out=memory.json

Prints JSON. `speed` generates JPEGs with the dimensions and file size of film stills, prepares them
like any folder of images (`emotion_folder`), and reads them as training does
(`igerg_jax.data.pipeline.train_batches`): batches of 64 examples with one image each, randomly
cropped to 224 pixels, flipped and colour-jittered. `torch` does the same work with a DataLoader and
Pillow, like torchvision's transforms on Pillow images: decode in full, RandomResizedCrop
(bilinear), RandomHorizontalFlip, ColorJitter without hue, to uint8 tensors; one worker per core.
`torch_draft` also lets Pillow decode at a reduced scale where the crop allows, which torchvision
does not do by itself. The sides take turns, each in its own process, pinned to the same cores. If
anything else is using the cores, images per second mean little; CPU time per image still does.

Only this benchmark needs PyTorch: pip install torch==2.13.0 (the CPU build will do).

`memory` reads batches of the local preset, which are small and fast to make, and reports the
process's resident memory after a warm-up, along the way and at the end.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata

import numpy as np
from PIL import Image, ImageEnhance

from configs import pretrain
from igerg_jax.batch import EMOTIONS
from igerg_jax.run import command_line

BATCH_SIZE, IMAGE_SIZE = 64, 224
STILL_HEIGHT, STILL_WIDTH = 320, 400
NOISE, QUALITY = 35.0, 90  # gives 81 KB per still
WARM_UP_BATCHES = 8
DATASET = "emotion_folder/stills"


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mode", choices=("speed", "memory"), default="speed")
    parser.add_argument("--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per side")
    parser.add_argument("--stills", type=int, default=700, help="JPEGs to generate")
    parser.add_argument("--sides", nargs="+", default=SPEED_SIDES, choices=SPEED_SIDES)
    parser.add_argument("--batches", type=int, default=5000, help="for --mode=memory")
    parser.add_argument("--warm_up", type=int, default=500, help="batches before measuring")
    parser.add_argument("--dataset", default="chitchat_peeps", help="for --mode=memory")
    parser.add_argument("--out", help="also write the JSON to this file")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def speed(options: argparse.Namespace, folder: str) -> dict:
    """Images per second of each side, measured in turn."""
    sizes = make_stills(pathlib.Path(folder), options.stills)
    runs: dict[str, list[dict]] = {side: [] for side in options.sides}
    for _ in range(options.rounds):
        for side in options.sides:
            runs[side].append(_run_side(side, options, folder))
            print(f"{side}: {runs[side][-1]['images_per_second']:.0f} images/s", file=sys.stderr)
    medians, costs = (
        {
            side: statistics.median(run[what] for run in side_runs)
            for side, side_runs in runs.items()
        }
        for what in ("images_per_second", "cpu_milliseconds_per_image")
    )
    ours = medians.get("igerg_jax")
    return {
        "batch": f"{BATCH_SIZE} examples, one image of {IMAGE_SIZE} pixels per side each",
        "stills": f"{options.stills} JPEGs of {STILL_WIDTH}x{STILL_HEIGHT}, quality {QUALITY}",
        "mean_jpeg_bytes": round(statistics.mean(sizes)),
        "augment": _config(options).data.augment.to_dict(),
        "images_per_second": {side: round(value, 1) for side, value in medians.items()},
        "cpu_milliseconds_per_image": {side: round(value, 3) for side, value in costs.items()},
        "times_as_quick_as": {
            side: round(ours / value, 2)
            for side, value in medians.items()
            if ours and side != "igerg_jax"
        },
        "runs": runs,
    }


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
    """Images per second after a warm-up, and CPU time per image."""
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


def igerg_jax_side(options: argparse.Namespace) -> dict:
    """This repository's training batches."""
    command_line.quieten()
    from igerg_jax.data import pipeline, prepare  # here: not in PyTorch's processes

    config = _config(options)
    folder = pathlib.Path(options.folder)
    config.data.update(data_dir=f"{folder}/data", manual_dir=str(folder), prepare_workers=1)
    config.data.tokenizer.path = str(_tokenizer(folder))
    prepared = prepare.prepare(config)
    batches = pipeline.train_batches(prepared, config, 0, np.arange(BATCH_SIZE))
    return _timed(batches, options.seconds, lambda batch: int(batch["image_mask"].sum()))


def _tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """Stills have no text, but every prepared dataset needs a tokenizer."""
    from igerg_jax.data import tokenizers  # here: not in PyTorch's processes

    path = folder / "tokenizer.model"
    if not path.exists():
        tokenizers.train_sentencepiece([" ".join(EMOTIONS)], "bpe", 290).save(path)
    return path


class Stills:
    """A map-style PyTorch dataset of JPEG files: uint8 [side, side, 3] tensors."""

    def __init__(self, folder: str, augment, draft: bool):
        self._paths = sorted(pathlib.Path(folder, "stills").rglob("*.jpg"))
        self._augment, self._draft = augment, draft

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int):
        import torch

        image = Image.open(self._paths[i])
        left, top, width, height = self._random_crop(*image.size)
        if self._draft:
            full = image.size
            shrink = min(width, height) / IMAGE_SIZE
            image.draft("RGB", (int(full[0] / shrink), int(full[1] / shrink)))
            scale = image.size[0] / full[0]
            left, top, width, height = (int(v * scale) for v in (left, top, width, height))
        image = image.convert("RGB").crop((left, top, left + width, top + height))
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        if self._augment.flip and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        jitter = self._augment.colour_jitter
        enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
        for enhance in random.sample(enhancers, k=len(enhancers)):
            image = enhance(image).enhance(random.uniform(1 - jitter, 1 + jitter))
        return torch.from_numpy(np.array(image))

    def _random_crop(self, width: int, height: int) -> tuple[int, int, int, int]:
        area = width * height * random.uniform(self._augment.crop_min_area, 1)
        ratio = (4 / 3) ** random.uniform(-1, 1)
        crop_width = min(round((area * ratio) ** 0.5), width)
        crop_height = min(round((area / ratio) ** 0.5), height)
        left = random.randint(0, width - crop_width)
        return left, random.randint(0, height - crop_height), crop_width, crop_height


def torch_side(options: argparse.Namespace, draft: bool = False) -> dict:
    """A DataLoader over `Stills`."""
    import torch
    from torch.utils.data import DataLoader, RandomSampler

    torch.set_num_threads(1)
    stills = Stills(options.folder, _config(options).data.augment, draft)
    # A single, practically endless epoch, so that no time is lost between epochs.
    sampler = RandomSampler(stills, replacement=True, num_samples=10**7)
    loader = DataLoader(stills, BATCH_SIZE, sampler=sampler, num_workers=len(options.cores))
    return _timed(iter(loader), options.seconds, len)


def memory_side(options: argparse.Namespace) -> dict:
    """Resident memory in MB, in total and without file mappings, by number of batches read."""
    command_line.quieten()
    from igerg_jax.data import pipeline, prepare  # here: not in PyTorch's processes

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


SPEED_SIDES = ["igerg_jax", "torch", "torch_draft"]
SIDES = {
    "igerg_jax": igerg_jax_side,
    "torch": torch_side,
    "torch_draft": lambda options: torch_side(options, draft=True),
    "memory": memory_side,
}


def _machine(options: argparse.Namespace) -> dict:
    info = pathlib.Path("/proc/cpuinfo").read_text()
    names = [line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")]
    machine = {"cpu": names[0] if names else platform.machine(), "cores": len(options.cores)}
    for package in ("tensorflow", "tensorflow_cpu", "torch", "pillow"):
        try:
            machine[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return machine | {"python": platform.python_version(), "numpy": np.__version__}


if __name__ == "__main__":
    main()
