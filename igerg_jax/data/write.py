"""Writes prepared datasets in parallel: turns and images once, tokens once per tokenizer.

    <base>/turns/                 summary.json, files.json, <split>/ (see igerg_jax.data.store)
    <base>/<tokenizer digest>/    tokenizer.model, files.json, <split>/
    <base>/*.partial/             unfinished; the next call reuses the finished parts

A folder without ".partial" is complete: renaming it is the last step.
"""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from igerg_jax import storage
from igerg_jax.data import builders, parts, store, tokenizers
from igerg_jax.data.builders.source import NO_IMAGE, Options, Turns
from igerg_jax.data.splits import window_ends

PART_TURNS = 16_384
PART_IMAGES = 4096


def turns(dataset: str, options: Options, base: pathlib.Path, workers: int) -> pathlib.Path:
    """Writes and returns base/turns: the words, labels and images of every split.

    Raises:
      UserError: missing files, or a worker that was killed.
    """
    folder, partial = base / "turns", base / "turns.partial"
    splits = builders.splits(dataset, options)
    vectors = builders.layout(dataset).feature_dim > 0
    plan = {"format": store.FORMAT, "part_turns": PART_TURNS, "part_images": PART_IMAGES}
    plan["splits"] = {
        name: [len(split), len(_unique(split.image_keys)[0])] for name, split in splits.items()
    }
    _claim(partial, plan)
    if _sealed(partial):
        return _seal(partial, folder)
    jobs = []
    for name, (num_turns, num_images) in plan["splits"].items():
        jobs += _jobs(_text_part, partial, name, "text", parts.borders(num_turns, PART_TURNS))
        if num_images:
            function = _feature_part if vectors else _image_part
            borders = parts.borders(num_images, PART_IMAGES)
            jobs += _jobs(function, partial, name, "images", borders)
    # Starting processes takes longer than a few thousand turns.
    small = sum(map(len, splits.values())) < PART_IMAGES and not vectors
    _open_splits(dataset, options, splits)
    workers = 1 if small else workers
    parts.run(jobs, workers, f"preparing {dataset}", (_open_splits, (dataset, options)))
    counts = {name: _merge_turns(partial, name, split, vectors) for name, split in splits.items()}
    summary = {"dataset": dataset, "version": builders.version(dataset), "splits": counts}
    (partial / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    _report(dataset, counts)
    return _finish(partial, folder, workers)


def tokens(
    base: pathlib.Path, tokenizer: tokenizers.Tokenizer, kind: str, workers: int
) -> pathlib.Path:
    """Writes and returns base/<digest>: the ids of every turn's words; base/turns must be there."""
    folder = base / tokenizer.digest
    partial = base / f"{tokenizer.digest}.partial"
    splits = json.loads((base / "turns" / "summary.json").read_text())["splits"]
    _claim(partial, {"format": store.FORMAT, "part_turns": PART_TURNS})
    if _sealed(partial):
        return _seal(partial, folder)
    tokenizer.save(partial / "tokenizer.model")
    jobs = []
    for name, counts in splits.items():
        borders = parts.borders(counts["turns"], PART_TURNS)
        jobs += _jobs(_token_part, partial, name, "tokens", borders)
    start = (_open_tokenizer, (str(base), str(partial / "tokenizer.model"), kind))
    parts.run(jobs, workers if len(jobs) > len(splits) else 1, "tokenising", start)
    for name in splits:
        store.merge_columns(partial / name, _all(partial, name, "tokens"), store.TOKEN_COLUMNS)
    return _finish(partial, folder, workers)


def _jobs(
    function: Callable,
    partial: pathlib.Path,
    split: str,
    kind: str,
    borders: Sequence[tuple[int, int]],
) -> list[tuple[Callable, tuple]]:
    """Makes a split's folders; returns the jobs (`parts.run`) of its parts that are missing."""
    (partial / "parts" / split).mkdir(parents=True, exist_ok=True)
    (partial / split).mkdir(exist_ok=True)
    return [
        (function, (str(partial), split, number, start, end))
        for number, (start, end) in enumerate(borders)
        if not _part(partial, split, kind, number).exists()
    ]


def _claim(partial: pathlib.Path, plan: dict) -> None:
    """Creates `partial`, or keeps it if it was started with the same plan."""
    path = partial / "plan.json"
    if not path.exists() or json.loads(path.read_text()) != plan:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        storage.write_text(path, json.dumps(plan))


def _finish(partial: pathlib.Path, folder: pathlib.Path, workers: int) -> pathlib.Path:
    """Turns `partial` into `folder`. If it is killed, finished parts are not lost."""
    for path in partial.rglob(f"{storage.UNFINISHED}*"):
        path.unlink()
    parts.write_manifest(partial, workers, without="parts")
    return _seal(partial, folder)


def _sealed(partial: pathlib.Path) -> bool:
    """Whether everything is written: the checksums come last."""
    return (partial / parts.MANIFEST).exists()


def _seal(partial: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(partial / "parts", ignore_errors=True)
    partial.rename(folder)
    return folder


def _part(partial: pathlib.Path, split: str, kind: str, number: int) -> pathlib.Path:
    return partial / "parts" / split / f"{kind}-{number:05d}.npz"


def _all(partial: pathlib.Path, split: str, kind: str) -> list[pathlib.Path]:
    return sorted((partial / "parts" / split).glob(f"{kind}-*.npz"))


def _unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64[U] the first turn of each image, int64[turns] the image of each turn or NO_IMAGE).

    Images are numbered in the order of the turns that show them first.
    """
    shown = np.flatnonzero(keys != NO_IMAGE)
    _, first, inverse = np.unique(keys[shown], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    image = np.full(len(keys), NO_IMAGE, np.int64)
    image[shown] = rank[inverse]
    return shown[first[order]], image


# What this process has open, as a worker or instead of workers.
_splits: dict[str, Turns] = {}
_first_turns: dict[str, np.ndarray] = {}
_tokenizer: list = []


def _open_splits(dataset: str, options: Options, splits: dict[str, Turns] | None = None) -> None:
    if splits is None and _splits:
        return  # this process opened them for the plan
    _splits.clear()
    _splits.update(splits or builders.splits(dataset, options))
    _first_turns.clear()
    _first_turns.update({name: _unique(split.image_keys)[0] for name, split in _splits.items()})


def _text_part(partial: str, split: str, number: int, start: int, end: int) -> None:
    rows = (_splits[split].row(i) for i in range(start, end))
    parts.save_npz(_part(pathlib.Path(partial), split, "text", number), store.write_text(rows))


def _image_part(partial: str, split: str, number: int, start: int, end: int) -> None:
    folder = pathlib.Path(partial)
    path = folder / split / f"images-{number:05d}.array_record"
    images = (_splits[split].image(i) for i in _first_turns[split][start:end])
    with storage.replacing(path) as temporary:
        written = store.write_images(temporary, images)
    if not len(written["image_height_width"]):
        path.unlink()  # ArrayRecord does not open a file without records
    parts.save_npz(_part(folder, split, "images", number), written)


def _feature_part(partial: str, split: str, number: int, start: int, end: int) -> None:
    folder = pathlib.Path(partial)
    vectors = np.stack([_splits[split].features(i) for i in _first_turns[split][start:end]])
    path = folder / "parts" / split / f"features-{number:05d}.npy"
    np.save(path, vectors.astype(np.float32))
    written = {"state": np.zeros(end - start, np.int8)}
    written["image_height_width"] = np.zeros((0, 2), np.int32)
    parts.save_npz(_part(folder, split, "images", number), written)


def _open_tokenizer(base: str, model: str, kind: str) -> None:
    _tokenizer[:] = [pathlib.Path(base), tokenizers.load(kind, pathlib.Path(model))]


@functools.lru_cache(maxsize=4)
def _texts(folder: pathlib.Path) -> store.TurnStore:
    return store.TurnStore(folder, None)


def _token_part(partial: str, split: str, number: int, start: int, end: int) -> None:
    base, tokenizer = _tokenizer
    turns = _texts(base / "turns" / split)
    ids: Iterator = (tokenizer.encode(turns.text(i)) for i in range(start, end))
    path = _part(pathlib.Path(partial), split, "tokens", number)
    parts.save_npz(path, store.write_tokens(ids))


def _merge_turns(partial: pathlib.Path, name: str, split: Turns, vectors: bool) -> dict:
    """Merges the parts of a split; returns its counts."""
    folder, images = partial / name, _all(partial, name, "images")
    store.merge_columns(folder, _all(partial, name, "text"), store.TURN_COLUMNS)
    store.merge_columns(folder, images, store.IMAGE_COLUMNS)
    state = np.concatenate([np.zeros(0, np.int8), *(np.load(path)["state"] for path in images)])
    if vectors:
        files = sorted((partial / "parts" / name).glob("features-*.npy"))
        store.merge_features(folder, files, len(state))
    record = np.where(state == 0, np.cumsum(state == 0) - 1, NO_IMAGE)
    _, image = _unique(split.image_keys)
    np.save(
        folder / "image.npy", np.where(image == NO_IMAGE, NO_IMAGE, np.append(record, -1)[image])
    )
    opened = store.TurnStore(folder, None)
    labelled = opened.emotion >= 0
    return {
        "turns": len(opened),
        "windows": len(window_ends(opened, split.standalone)),
        "images": int((state == 0).sum()),
        "missing_images": int((state == 1).sum()),
        "broken_images": int((state == 2).sum()),
        "labelled_turns": int(labelled.sum()),
        "labelled_images": int((labelled & (opened.image != NO_IMAGE)).sum()),
        "turns_with_words": int((opened.text_bytes() > 0).sum()),
        "standalone": split.standalone,
        "feature_dim": opened.feature_dim,
    }


def _report(dataset: str, counts: dict[str, dict]) -> None:
    """Reports missing and broken images on stderr."""
    for split, found in counts.items():
        for what in ("missing", "broken"):
            if lacking := found[f"{what}_images"]:
                total = found["images"] + found["missing_images"] + found["broken_images"]
                print(
                    f"{dataset}, {split}: {lacking} of {total} images are {what}; "
                    "their turns have none",
                    file=sys.stderr,
                )


def verify(base: pathlib.Path, folder: pathlib.Path, workers: int) -> list[str]:
    """Checks checksums and counts of base/turns and of `folder`; returns a line per defect."""
    damaged = parts.check_manifest(base / "turns", workers) + parts.check_manifest(folder, workers)
    if damaged:
        return damaged
    summary = json.loads((base / "turns" / "summary.json").read_text())
    for name, counts in summary["splits"].items():
        split = store.TurnStore(base / "turns" / name, folder / name)
        found = {
            "turns": len(split),
            "windows": len(window_ends(split, counts["standalone"])),
            "images": split.count_images(),
            "turns of the tokens": len(split.token_counts()),
        }
        for what, count in found.items():
            expected = counts.get(what, counts["turns"])
            if count != expected:
                damaged.append(f"{base}, {name}: {count} {what}, not {expected}")
    return damaged
