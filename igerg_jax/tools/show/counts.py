"""Statistics of splits as text: lengths, numbers of images, labels, what is cut and padded."""

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.batch import EMOTIONS, BatchSpec
from igerg_jax.data import mixtures, store
from igerg_jax.data.lengths import Counts, count
from igerg_jax.data.prepared import Prepared
from igerg_jax.data.windows import Split

_PERCENTILES = (0, 10, 50, 90, 99, 100)
_STEPS = 2048
_BINS, _BAR = 8, 24  # lines of a histogram; characters of its longest bar


def describe(prepared: Prepared, config: ConfigDict) -> str:
    """The statistics of every split that the config reads, each once."""
    data = config.data
    names = {id(each.split(data.train_split)): name for name, each in prepared.datasets.items()}
    streams = mixtures.streams(prepared, config)
    splits = [
        (f"training, mixture {mixture}" if mixture else "training", names[id(split)], split)
        for mixture, stream in streams.items()
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
    if data.length_buckets:
        said += [_describe_sizes(name, stream, config) for name, stream in streams.items()]
    return "\n\n".join(said)


def _describe_sizes(mixture: str, stream: mixtures.Stream, config: ConfigDict) -> str:
    """How many of an epoch's first `_STEPS` steps need batches of each size for a mixture."""
    size, windows = config.train.batch_size, sum(split.num_windows for split in stream.splits)
    steps = [stream.step(step, size) for step in range(min(_STEPS, max(1, windows // size)))]
    source, ids = stream.at(np.concatenate([step.positions_B for step in steps]))
    specs = BatchSpec.by_length(config.data, size)
    tokens = 0
    for s, split in enumerate(stream.splits):
        counts, of_split = count(split, config), ids[source == s]
        tokens += np.minimum(counts.context[of_split], specs[-1].context_tokens).sum()
        tokens += np.minimum(counts.response[of_split], specs[-1].response_tokens).sum()
    numbers = np.bincount([step.bucket for step in steps], minlength=len(specs))
    room = np.array([size * sum(spec.lengths) for spec in specs])
    full, dealt = (1 - tokens / total for total in (len(steps) * room[-1], numbers @ room))
    lines = [
        f"  {spec.context_tokens:>4} + {spec.response_tokens} tokens: {number / len(steps):.1%}"
        for spec, number in zip(specs, numbers, strict=True)
    ]
    title = f"batches of mixture {mixture}" if mixture else "batches"
    padding = f"{dealt:.1%} padding, against {full:.1%} if all had the full size"
    return "\n".join([f"{title} by size, of {len(steps):,} steps: {padding}", *lines])


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
