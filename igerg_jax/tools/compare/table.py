"""Builds a table of rows: a line per config, metrics over its seeds, tests against a baseline."""

import collections
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.metrics import Metric, by_name
from igerg_jax.report import answers
from igerg_jax.report.templates import finite
from igerg_jax.run.workdirs import flatten
from igerg_jax.text_labeller import ORDINALS
from igerg_jax.tools.compare import statistics
from igerg_jax.tools.compare.rows import DONE, FULL, SPLIT, Row, short_name

BASELINE = FULL["pretrain"]

# The columns, in order; `igerg_jax.metrics` has their titles, directions and formats.
COLUMNS = """
    response_perplexity emotion_following emotion_following_second emotion_following_third
    emotion_following_distinct response_emotion_accuracy response_emotion_macro_f1
    response_emotion_non_neutral_accuracy response_emotion_macro_f1_second
    response_emotion_macro_f1_third image_emotion_accuracy sequence_emotion_accuracy judge_accuracy
    dist_1 dist_2 dist_adjusted bleu_1 bleu_2 bleu_4 moses_bleu_4 rouge_l meteor cider similarity
""".split()
SAME_ACCURACY = 5e-4  # labellers of one kind that are this close are one, trained twice
COMPUTE = ("wall_seconds", "steps", "examples", "parameters")  # fields of a row


class PerWindow(NamedTuple):
    """A metric by window, of one run or averaged over the runs of a config."""

    key: list  # equal if two runs have had the same windows
    value_W: np.ndarray
    weight_W: np.ndarray
    cluster_W: np.ndarray  # which conversation each is of


@dataclasses.dataclass(frozen=True)
class Tested:
    """How a metric is tested: its value on a window, and the form of its difference."""

    per_window: Callable[[Mapping[str, Any]], PerWindow | None]
    scale: Callable[[float], float]  # applied to the difference of weighted means
    format: str


class Cell(NamedTuple):
    """A metric of a config over its seeds."""

    mean: float
    deviation: float  # NaN with one seed
    count: int  # seeds that have it


class Effect(NamedTuple):
    """The difference of a config from the baseline on the same windows, after `Tested.scale`."""

    estimate: float
    low: float
    high: float
    p: float
    corrected: (
        float  # p, corrected by Holm's method for the number of configs compared on this metric
    )


@dataclasses.dataclass(frozen=True)
class Line:
    """A config: the rows of its seeds, and their means, deviations and tests."""

    name: str
    rows: list[Row]  # finished, by seed
    failed: list[Row]  # those that are not finished
    cells: dict[str, Cell]
    compute: dict[str, float]  # means over the seeds
    effects: dict[str, Effect]

    @property
    def trouble(self) -> str:
        """Why seeds have no results; "" if all have."""
        parts = (f"seed {row.seed} {row.status}: {row.message}" for row in self.failed)
        return "; ".join(part.rstrip(": ") for part in parts)


@dataclasses.dataclass(frozen=True)
class Table:
    metrics: list[Metric]  # the columns that any line has
    lines: list[Line]  # the baseline first, if there is one
    baseline: str  # its name; "" = nothing is compared
    held_out: dict[str, dict[str, Any]]  # `report.answers.held_out` of the rows' labellers

    @property
    def baselines(self) -> dict[str, tuple[float, float]]:
        """{metric: the least and the largest value of its `metrics.Baseline`}, of those that all
        finished rows have."""
        rows = [row.evaluation.get(SPLIT) or {} for line in self.lines for row in line.rows]
        found = {}
        for metric in self.metrics:
            values = [row.get(metric.baseline.name) for row in rows if finite(row.get(metric.name))]
            if values and all(map(finite, values)):
                found[metric.name] = min(values), max(values)
        return found

    @property
    def commits(self) -> dict[str, int]:
        """{commit: how many finished rows are of it}, the commonest first."""
        commits = [row.commit for line in self.lines for row in line.rows if row.commit]
        return dict(collections.Counter(commits).most_common())


def _response_likelihood(windows: Mapping[str, Any]) -> PerWindow | None:
    response = windows.get("response") or {}
    nll, tokens = response.get("nll") or [], response.get("tokens") or []
    if not tokens or len(nll) != len(tokens):
        return None
    weight_W = np.array(tokens, float)
    return PerWindow(tokens, np.array(nll, float), weight_W, _conversations(response, len(nll)))


def _following(windows: Mapping[str, Any], said: str) -> PerWindow | None:
    following = windows.get("following") or {}
    index, expressed_WxC = following.get("index") or [], np.array(following.get(said) or [])
    if not index or expressed_WxC.shape != (len(index), NUM_EMOTIONS):
        return None
    share_W = (expressed_WxC == np.arange(NUM_EMOTIONS)).mean(1)
    # Another dataset's windows may have the same indices, but not the same numbers of tokens.
    key = [index, (windows.get("response") or {}).get("tokens")]
    conversations_W = _conversations(following, len(index))
    return PerWindow(key, share_W, np.ones(len(index)), conversations_W)


def _conversations(of: Mapping[str, Any], windows: int) -> np.ndarray:
    """int64 [W], which conversation each window is of; without a record, each is one of its own."""
    kept = of.get("conversation") or []
    return np.unique(kept if len(kept) == windows else np.arange(windows), return_inverse=True)[1]


def _test_of_following(said: str) -> Tested:
    """`said`: a key of windows.json, whose labeller found the emotions."""
    per_window = functools.partial(_following, said=said)
    return Tested(per_window, lambda difference: 100 * difference, "{:+.1f} points")


TESTED = {
    # A difference of log-likelihoods per token is the logarithm of a ratio of perplexities.
    "response_perplexity": Tested(_response_likelihood, math.exp, "×{:.3f}"),
    "emotion_following": _test_of_following("said"),
    **{f"emotion_following_{name}": _test_of_following(f"said_{name}") for name in ORDINALS},
}


def build(rows: Iterable[Row], baseline: str | None) -> Table:
    """The table of some rows.

    Args:
      baseline: a line's name; None = `BASELINE`, the first of them if there are several.

    Raises:
      UserError: there is no such line, or none of its runs has finished.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.config, row.preset, row.digest), []).append(row)
    names = _names(groups)
    lines = [_line(names[key], group) for key, group in groups.items()]
    finished = [line.name for line in lines if line.rows]
    if baseline is not None and baseline not in finished:
        names = ", ".join(finished) or "none"
        raise UserError(f"--baseline={baseline} is not among the finished configs: {names}")
    chosen = baseline or _default_baseline(lines)
    lines.sort(key=lambda line: line.name != chosen)  # stable
    if chosen:
        lines = _compared(lines)
    present = {name for line in lines for name in line.cells}
    known = by_name()
    held_out = _held_out([row for line in lines for row in line.rows])
    return Table([known[name] for name in COLUMNS if name in present], lines, chosen, held_out)


def _held_out(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """How well the labellers of the rows do.

    Raises:
      UserError: two rows have had different ones, whose figures mean different things.
    """
    named = [row for row in rows if row.text_labeller]
    for row in named:
        if not _same_labellers(row.text_labeller, named[0].text_labeller):
            raise UserError(
                f"{named[0].name} (seed {named[0].seed}) and {row.name} (seed {row.seed}) were "
                "evaluated with different files of evaluate.text_labeller: evaluate them anew with "
                "the same, or compare them apart"
            )
    return answers.held_out(named[0].text_labeller) if named else {}


def _same_labellers(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether they are of the same kinds and do as well on the same texts, but for the rounding of
    the machine that each was trained on."""
    first, second = flatten(one), flatten(other)
    if first.keys() != second.keys():
        return False
    pairs = [(first[key], second[key]) for key in first]
    return all(abs(a - b) < SAME_ACCURACY if finite(a) and finite(b) else a == b for a, b in pairs)


def _default_baseline(lines: Sequence[Line]) -> str:
    """The name of the first finished line of configs/pretrain.py; "" if there is none."""
    full = (
        line.name for line in lines if line.rows and short_name(line.rows[0].config) == BASELINE
    )
    return next(full, "")


def _names(groups: Mapping[tuple[str, str, str], Sequence[Row]]) -> dict[tuple, str]:
    """Names of (config, preset, digest), as short as keeps them distinct.

    One config with other settings has the name of its run's folder.
    """

    def folder(config: str, preset: str, digest: str) -> str:
        runs = groups[config, preset, digest]
        return pathlib.Path(runs[0].workdir).name if len(runs) == 1 else ""

    keys = list(groups)
    spellings = (
        lambda config, preset, digest: short_name(config),
        lambda config, preset, digest: f"{short_name(config)}:{preset}",
        folder,
        lambda config, preset, digest: f"{short_name(config)}:{preset}:{digest[:6]}",
        lambda config, preset, digest: f"{config}:{preset}:{digest}",
    )
    names = {}
    for key in keys:
        for spelling in spellings:
            names[key] = spelling(*key)
            if names[key] and [spelling(*other) for other in keys].count(names[key]) == 1:
                break
    return names


def _line(name: str, rows: list[Row]) -> Line:
    rows = sorted(rows, key=lambda row: row.seed)
    finished = [row for row in rows if row.status == DONE]
    cells = {}
    for metric in COLUMNS:
        values = [(row.evaluation.get(SPLIT) or {}).get(metric) for row in finished]
        values = [value for value in values if finite(value)]
        if values:
            cells[metric] = Cell(*statistics.mean_and_deviation(values), len(values))
    compute = {}
    for field in COMPUTE:
        values = [value for row in finished if finite(value := getattr(row, field))]
        if values:
            compute[field] = sum(values) / len(values)
    failed = [row for row in rows if row.status != DONE]
    return Line(name, finished, failed, cells, compute, {})


def _compared(lines: list[Line]) -> list[Line]:
    """The lines, each with its effects against the first one."""
    effects: list[dict[str, Effect]] = [{} for _ in lines]
    for metric, tested in TESTED.items():
        base = _over_seeds(lines[0], tested)
        against = {i: _difference(_over_seeds(line, tested), base) for i, line in enumerate(lines)}
        against = {i: d for i, d in against.items() if d is not None and i > 0}
        corrected = statistics.holm([float(d.p) for d in against.values()])
        for (i, d), p in zip(against.items(), corrected, strict=True):
            ends = (tested.scale(float(x)) for x in (d.estimate, d.low, d.high))
            effects[i][metric] = Effect(*ends, float(d.p), p)
    pairs = zip(lines, effects, strict=True)
    return [dataclasses.replace(line, effects=of_line) for line, of_line in pairs]


def _over_seeds(line: Line, tested: Tested) -> PerWindow | None:
    """The mean over a config's seeds; None if one of them lacks it or has had other windows."""
    seeds = [tested.per_window(row.windows) for row in line.rows]
    if not seeds or any(seed is None or seed.key != seeds[0].key for seed in seeds):
        return None
    return seeds[0]._replace(value_W=np.mean([seed.value_W for seed in seeds], 0))


def _difference(one: PerWindow | None, base: PerWindow | None) -> statistics.Difference | None:
    """None where the windows are not the same, or of too few conversations."""
    if one is None or base is None or one.key != base.key:
        return None
    # Of two runs, one may be from before conversations were recorded.
    cluster_W = min(one.cluster_W, base.cluster_W, key=np.max)
    if cluster_W.max() + 1 < statistics.MIN_CLUSTERS:
        return None
    difference_K = np.bincount(cluster_W, one.value_W - base.value_W)
    return statistics.paired_bootstrap(difference_K, np.bincount(cluster_W, one.weight_W))
