"""Writes prepared datasets in parallel: turns and images once, tokens once per tokenizer.

    <base>/turns/                 summary.json, raw_files.json, files.json, <split>/ (see store)
    <base>/<tokenizer digest>/    tokenizer.model, files.json, <split>/
    <base>/*.partial/             unfinished; the next call reuses the finished parts

A folder without ".partial" is complete: renaming it is the last step.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
import sys

import numpy as np

from igerg_jax import manifests, storage
from igerg_jax.data import builders, image_files, parts, raw_files, store, tokenizers
from igerg_jax.data.builders.source import NO_IMAGE, Options, Turns
from igerg_jax.data.windows import window_ends

PART_TURNS = 16_384
PART_IMAGES = 4096
NAMED_BROKEN = 5  # how many broken images the summary names, with the reasons


def turns(
    dataset: str, options: Options, base: pathlib.Path, workers: int, short_side: int
) -> pathlib.Path:
    """Writes and returns base/turns: the words, labels and images of every split.

    Args:
      short_side: as for `image_gate.as_jpeg`.

    Raises:
      UserError: missing files, or a worker that was killed.
    """
    partial = base / "turns.partial"
    _opened.cache_clear()  # the files may have changed
    splits = _opened(dataset, options)
    vectors = builders.layout(dataset).feature_dim > 0
    sizes = {name: [len(turns), len(images)] for name, (turns, images) in splits.items()}
    plan = {"format": store.FORMAT, "part_turns": PART_TURNS, "part_images": PART_IMAGES}
    _claim(partial, plan | {"splits": sizes})
    if not _is_complete(partial):
        jobs, total = [], 0
        for name, (num_turns, num_images) in sizes.items():
            total += len(parts.borders(num_turns, PART_TURNS))
            total += len(parts.borders(num_images, PART_IMAGES))
            for part in _missing(partial, name, "text", num_turns, PART_TURNS):
                jobs.append(functools.partial(_write_text, part, dataset, options))
            write_images = functools.partial(_write_images, short_side=short_side)
            write = _write_features if vectors and num_images else write_images
            for part in _missing(partial, name, "images", num_images, PART_IMAGES):
                jobs.append(functools.partial(write, part, dataset, options))
        # Starting processes takes longer than a few thousand turns.
        small = sum(num_turns for num_turns, _ in sizes.values()) < PART_IMAGES and not vectors
        workers = 1 if small else workers
        with parts.naming_a_full_disk(partial, f"preparing {dataset}", total):
            raw_files.record(dataset, options, partial)
            parts.run(jobs, workers, f"preparing {dataset}")
            counts = {
                name: _merge_turns(partial, name, turns, vectors)
                for name, (turns, _) in splits.items()
            }
            summary = {"dataset": dataset, "version": builders.version(dataset), "splits": counts}
            storage.write_text(partial / "summary.json", json.dumps(summary, indent=1) + "\n")
            _report(dataset, counts)
            _list_files(partial)
    return _complete(partial, base / "turns")


def tokens(
    base: pathlib.Path, tokenizer: tokenizers.Tokenizer, kind: str, workers: int
) -> pathlib.Path:
    """Writes and returns base/<digest>: the ids of every turn's words; base/turns must be there."""
    partial = base / f"{tokenizer.digest}.partial"
    _claim(partial, {"format": store.FORMAT, "part_turns": PART_TURNS})
    if not _is_complete(partial):
        splits = json.loads((base / "turns" / "summary.json").read_text())["splits"]
        model, words = partial / "tokenizer.model", base / "turns"
        jobs, total = [], 0
        for name, counts in splits.items():
            total += len(parts.borders(counts["turns"], PART_TURNS))
            for part in _missing(partial, name, "tokens", counts["turns"], PART_TURNS):
                jobs.append(functools.partial(_write_tokens, part, words / name, kind, model))
        with parts.naming_a_full_disk(partial, "tokenising", total):
            tokenizer.save(model)
            parts.run(jobs, workers if len(jobs) > len(splits) else 1, "tokenising")
            for name in splits:
                paths = _all(partial, name, "tokens")
                store.merge_columns(partial / name, paths, "token_lengths", "tokens")
            _list_files(partial)
    return _complete(partial, base / tokenizer.digest)


@dataclasses.dataclass(frozen=True)
class Part:
    """A range of a split's turns or images, and the file that its columns go to."""

    split: str
    folder: pathlib.Path  # of the split
    path: pathlib.Path
    start: int
    end: int


def _missing(partial: pathlib.Path, split: str, kind: str, total: int, size: int) -> list[Part]:
    """Makes a split's folders; returns those of its parts that are not written yet."""
    folder, columns = partial / split, partial / "parts" / split
    folder.mkdir(exist_ok=True)
    columns.mkdir(parents=True, exist_ok=True)
    all_parts = [
        Part(split, folder, columns / f"{kind}-{number:05d}.npz", start, end)
        for number, (start, end) in enumerate(parts.borders(total, size))
    ]
    return [part for part in all_parts if not _is_written(part)]


def _is_written(part: Part) -> bool:
    """Whether a part's columns are whole, and of images as many are there as the columns say."""
    if not parts.is_whole(part.path):
        return False
    with np.load(part.path) as columns:
        count = len(columns["image_height_width"]) if "image_height_width" in columns else 0
    return store.records_in(part.folder / f"{part.path.stem}.array_record") == count


def _claim(partial: pathlib.Path, plan: dict) -> None:
    """Creates `partial`, or keeps it if it was started with the same plan."""
    path = partial / "plan.json"
    if not path.exists() or _plan_at(path) != plan:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        storage.write_text(path, json.dumps(plan))


def _plan_at(path: pathlib.Path) -> object:
    try:
        return storage.from_json(path.read_text())
    except (OSError, ValueError):
        return None


def _is_complete(partial: pathlib.Path) -> bool:
    """Whether everything is written: the checksums come last."""
    return (partial / manifests.FILE).exists()


def _list_files(partial: pathlib.Path) -> None:
    """Writes the checksums of all files but the parts, after which it is complete."""
    for path in partial.rglob(f"{storage.UNFINISHED}*"):
        path.unlink()
    parts.write_manifest(partial, without="parts")


def _complete(partial: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Turns `partial` into `folder`. If killed, it loses no finished part."""
    shutil.rmtree(partial / "parts", ignore_errors=True)
    partial.rename(folder)
    return folder


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


@functools.lru_cache(maxsize=1)
def _opened(dataset: str, options: Options) -> dict[str, tuple[Turns, np.ndarray]]:
    """{split: (its turns, the first turn of each image)}, opened once in a process."""
    splits = builders.splits(dataset, options)
    return {name: (turns, _unique(turns.image_keys)[0]) for name, turns in splits.items()}


def _write_text(part: Part, dataset: str, options: Options) -> None:
    turns, _ = _opened(dataset, options)[part.split]
    parts.save_npz(part.path, store.text_columns(map(turns.row, range(part.start, part.end))))


def _write_images(part: Part, dataset: str, options: Options, short_side: int) -> None:
    turns, first_turns = _opened(dataset, options)[part.split]
    records = part.folder / f"{part.path.stem}.array_record"
    with storage.replacing(records) as temporary:
        images = map(turns.image, first_turns[part.start : part.end])
        columns = store.write_images(temporary, images, short_side)
    if not len(columns["image_height_width"]):
        records.unlink()  # ArrayRecord does not open a file without records
    parts.save_npz(part.path, columns)


def _write_features(part: Part, dataset: str, options: Options) -> None:
    turns, first_turns = _opened(dataset, options)[part.split]
    vectors = map(turns.features, first_turns[part.start : part.end])
    parts.save_npz(part.path, store.feature_columns(np.stack(list(vectors))))


def _write_tokens(part: Part, turns: pathlib.Path, kind: str, model: pathlib.Path) -> None:
    encode, words = _tokenizer(kind, model).encode, _words(turns)
    ids = (encode(words.text(i)) for i in range(part.start, part.end))
    parts.save_npz(part.path, store.token_columns(ids))


@functools.lru_cache(maxsize=1)
def _tokenizer(kind: str, model: pathlib.Path) -> tokenizers.Tokenizer:
    return tokenizers.load(kind, model)


@functools.lru_cache(maxsize=4)
def _words(folder: pathlib.Path) -> store.TurnStore:
    return store.TurnStore(folder, None)


def _merge_turns(partial: pathlib.Path, name: str, split: Turns, vectors: bool) -> dict:
    """Merges the parts of a split; returns its counts."""
    folder, texts = partial / name, _all(partial, name, "text")
    images = _all(partial, name, "images")
    store.merge_columns(folder, texts, "emotion", "turn_in_episode", "text_lengths", "text")
    store.merge_columns(folder, images, "image_height_width")
    state = store.joined(images, "state")
    if vectors and (state == 0).any():
        store.merge_features(folder, images, int((state == 0).sum()))
    record = np.where(state == 0, np.cumsum(state == 0) - 1, NO_IMAGE)
    _, image = _unique(split.image_keys)
    np.save(folder / "image.npy", np.append(record, NO_IMAGE)[image])  # NO_IMAGE is the last place
    opened = store.TurnStore(folder, None)
    labelled = opened.emotion >= 0
    return {
        "turns": len(opened),
        "windows": len(window_ends(opened, split.standalone)),
        "images": int((state == 0).sum()),
        "missing_images": int((state == 1).sum()),
        "broken_images": int((state == 2).sum()),
        "first_broken": _first_broken(split, np.flatnonzero(state == 2), images),
        "passed_over": dict(split.passed_over),
        "remarks": dict(split.remarks),
        "labelled_turns": int(labelled.sum()),
        "labelled_images": int((labelled & (opened.image != NO_IMAGE)).sum()),
        "turns_with_words": int((opened.text_bytes() > 0).sum()),
        "standalone": split.standalone,
        "feature_dim": opened.feature_dim,
    }


def _first_broken(
    split: Turns, broken: np.ndarray, parts_of_images: list[pathlib.Path]
) -> dict[str, str]:
    """{name: what is wrong} of the first images that are broken, by their numbers."""
    first_turns, _ = _unique(split.image_keys)
    reasons = store.joined(parts_of_images, "reason") if len(broken) else ()
    pairs = zip(first_turns[broken[:NAMED_BROKEN]].tolist(), reasons, strict=False)
    # A vector has no name.
    return {split.row(i)["image_id"] or f"that of turn {i}": str(reason) for i, reason in pairs}


def _report(dataset: str, splits: dict[str, dict]) -> None:
    """Reports on stderr how many images were read and how many not, and what else was left out."""
    has_files = builders.find(dataset)[0].reads_manual_dir
    for split, counts in splits.items():
        missing, broken = counts["missing_images"], counts["broken_images"]
        others = counts["passed_over"]
        read = counts["images"]
        if missing or broken or others or (has_files and read):
            line = image_files.count_line(read, missing, broken, others)
            print(f"{dataset}, {split}: {line}", file=sys.stderr)
        for name, reason in counts["first_broken"].items():
            print(f"{dataset}, {split}: broken: {name}: {reason}", file=sys.stderr)
        for what, count in counts["remarks"].items():
            print(f"{dataset}, {split}: {count:,} {what}", file=sys.stderr)


def verify(base: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Checks checksums and counts of base/turns and of `folder`; returns a line per defect."""
    damaged = parts.check_manifest(base / "turns") + parts.check_manifest(folder)
    if damaged:
        return damaged
    summary = json.loads((base / "turns" / "summary.json").read_text())
    for name, counts in summary["splits"].items():
        split = store.TurnStore(base / "turns" / name, folder / name)
        windows = window_ends(split, counts["standalone"])
        actual = {"turns": len(split), "windows": len(windows), "images": split.count_images()}
        for what, count in actual.items():
            if count != counts[what]:
                damaged.append(f"{base}, {name}: {count} {what}, not {counts[what]}")
    return damaged
