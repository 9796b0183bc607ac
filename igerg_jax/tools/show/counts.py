"""Statistics of splits as text: lengths, numbers of images, labels, and how much is cut."""

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.batch import EMOTIONS
from igerg_jax.data import mixtures, store
from igerg_jax.data.lengths import Counts, count
from igerg_jax.data.prepared import Prepared
from igerg_jax.data.windows import Split

_PERCENTILES = (0, 10, 50, 90, 99, 100)
_BINS, _BAR = 8, 24  # lines of a histogram; characters of its longest bar


def describe(prepared: Prepared, config: ConfigDict) -> str:
    """The statistics of every split that the config reads, each once."""
    data = config.data
    names = {id(each.split(data.train_split)): name for name, each in prepared.datasets.items()}
    splits = [
        (f"training, mixture {mixture}" if mixture else "training", names[id(split)], split)
        for mixture, stream in mixtures.streams(prepared, config).items()
        for split in stream.splits
    ]
    for name in (data.eval_split, data.test_split, *data.extra_test_splits):
        if name in prepared.summary["splits"]:
            splits.append((name, prepared.dataset, prepared.split(name)))
    said, seen = [], set()
    for use, dataset, split in splits:
        title = f"{use}: {dataset}, split '{split.name}'"
        said.append(
            f"{title}: as above" if split in seen else _describe_split(title, split, config)
        )
        seen.add(split)
    return "\n\n".join(said)


def _describe_split(title: str, split: Split, config: ConfigDict) -> str:
    data, counts = config.data, count(split, config)
    kind = "turns that stand alone" if split.standalone else "windows"
    lines = [f"{title}, {len(counts.context):,} {kind}"]
    if not len(counts.context):
        return lines[0]
    limits = data.context_tokens, data.response_tokens, data.context_turns + 1
    for name, values, limit in zip(Counts._fields, counts, limits, strict=True):
        unit = "images" if name == "images" else "tokens"
        if not values.any():
            lines.append(f"\n  {name}: no {unit}")
            continue
        kept = np.minimum(values, limit)
        padding = 1 - kept.sum() / (limit * len(values))
        lines.append(f"\n  {name}: room for {limit} {unit}, {padding:.1%} of it padding")
        if (cut := values > limit).any():
            lost = 1 - kept.sum() / values.sum()
            what = {"images": "windows"}.get(name, f"{name}s")
            lines.append(
                f"    {cut.mean():.1%} of the {what} are cut at {limit} {unit}, losing {lost:.1%} "
                f"of the {unit}"
            )
        marks = np.percentile(values, _PERCENTILES, method="inverted_cdf")
        shown = "  ".join(f"{p}% {int(v)}" for p, v in zip(_PERCENTILES, marks, strict=True))
        lines.append(f"    percentiles: {shown}  mean {values.mean():.1f}")
        lines += [f"    {line}" for line in histogram(values)]
    turns, last = split.turns, split.response_turn
    shown = turns.image != store.NO_IMAGE
    for what, emotions in (("responses", turns.emotion[last]), ("images", turns.emotion[shown])):
        lines.append(f"\n  labels of {what}: {len(emotions):,}")
        lines += [f"    {line}" for line in labels(emotions)]
    return "\n".join(lines)


def labels(emotions: np.ndarray) -> list[str]:
    """A line of text for each value that occurs in `emotions` (int [N]), UNKNOWN included."""
    names = [*EMOTIONS, "no label"]  # UNKNOWN is -1: the last
    numbers = np.bincount(emotions % len(names), minlength=len(names))
    return [
        f"{name:>9} {'█' * round(_BAR * n / numbers.max()):<{_BAR}} {n:,} ({n / len(emotions):.1%})"
        for name, n in zip(names, numbers.tolist(), strict=True)
        if n
    ]


def histogram(values: np.ndarray) -> list[str]:
    """Lines of text, one per range of `values` (int64 [W]); the top 1 % share the last one."""
    top = int(np.percentile(values, 99, method="inverted_cdf"))
    low = int(values.min())
    step = max(1, -(-(top - low + 1) // _BINS))
    starts = np.arange(low, top + 1, step)
    numbers = np.bincount(np.minimum((values - low) // step, len(starts) - 1))
    lines = []
    for i, (start, number) in enumerate(zip(starts, numbers, strict=True)):
        end = start + step - 1
        name = f"{start}" if step == 1 else f"{start}-{end}"
        if i == len(starts) - 1 and values.max() > end:
            name = f"{start}+"
        bar = "█" * round(_BAR * number / numbers.max())
        lines.append(f"{name:>9} {bar:<{_BAR}} {number / len(values):.1%}")
    return lines
