"""What annotators say together: who wins, how surely, and how far they agree.

K = conversations, A = annotators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from igerg_jax.report.templates import finite, formatted
from igerg_jax.tools.compare import statistics
from igerg_jax.tools.human_eval.pairs import CHOICES, CRITERIA, LEFT, RIGHT

FIRST, TIE, SECOND = range(3)  # what an answer says of the runs, once the order is known
MISSING = -1


class Outcome(NamedTuple):
    """Of one criterion.

    Attributes:
      wins, ties, losses: answers for the first run, for neither and for the second.
      win_rate: of the first run, a tie counting half; with `low` and `high`, 95 %, and `p`, of no
        preference, by the bootstrap over conversations. NaN with too few of them.
      left_rate: how often the response on the left was preferred, ties left out: far from 0.5 where
        annotators favour a side.
      kappa: agreement beyond chance: Cohen's of two annotators, Fleiss' of more; NaN of one.
    """

    wins: int
    ties: int
    losses: int
    win_rate: float
    low: float
    high: float
    p: float
    left_rate: float
    kappa: float
    annotators: int
    conversations: int


def outcomes(
    answers: Sequence[Mapping[str, Mapping[str, str]]], left_run: Mapping[str, int]
) -> dict[str, Outcome]:
    """{criterion: outcome}.

    Args:
      answers: of each annotator, {conversation: {criterion: choice}}; any may be missing.
      left_run: {conversation: which run, 0 or 1, was on the left}.
    """
    return {criterion: _outcome(criterion, answers, left_run) for criterion in CRITERIA}


def _outcome(criterion: str, answers: Sequence[Any], left_run: Mapping[str, int]) -> Outcome:
    choices = [[of.get(name, {}).get(criterion) for of in answers] for name in left_run]
    answer_KxA = np.array(
        [
            [_of_runs(choice, left) for choice in row]
            for row, left in zip(choices, left_run.values(), strict=True)
        ]
    ).reshape(len(left_run), len(answers))
    wins, ties, losses = ((answer_KxA == x).sum() for x in (FIRST, TIE, SECOND))
    given_K = (answer_KxA != MISSING).sum(1)
    preference_K = (answer_KxA == FIRST).sum(1) - (answer_KxA == SECOND).sum(1)
    rate, low, high, p = _preference(preference_K[given_K > 0], given_K[given_K > 0])
    lefts, rights = (sum(c == side for row in choices for c in row) for side in (LEFT, RIGHT))
    return Outcome(
        *(int(x) for x in (wins, ties, losses)),
        *(rate, low, high, p),
        left_rate=lefts / (lefts + rights) if lefts + rights else math.nan,
        kappa=agreement(answer_KxA),
        annotators=int((answer_KxA != MISSING).any(0).sum()),
        conversations=int((given_K > 0).sum()),
    )


def _of_runs(choice: str | None, left_run: int) -> int:
    """`FIRST`, `TIE`, `SECOND` or `MISSING`."""
    if choice not in CHOICES:
        return MISSING
    place = CHOICES.index(choice)
    return place if left_run == 0 else SECOND - place


def _preference(preference_K: np.ndarray, given_K: np.ndarray) -> tuple[float, float, float, float]:
    """(win rate, low, high, p) of wins less losses out of the answers given to each."""
    if not given_K.sum():
        return (math.nan,) * 4
    rate = (1 + preference_K.sum() / given_K.sum()) / 2
    if len(given_K) < statistics.MIN_CLUSTERS:
        return float(rate), math.nan, math.nan, math.nan
    found = statistics.paired_bootstrap(preference_K, given_K)
    low, high = ((1 + float(np.clip(end, -1, 1))) / 2 for end in (found.low, found.high))
    return float(rate), low, high, float(found.p)


def agreement(answer_KxA: np.ndarray) -> float:
    """Cohen's kappa of two annotators, Fleiss' of more; NaN of one, or where all always say the
    same one thing."""
    answered = (answer_KxA != MISSING).any(0)
    answer_KxA = answer_KxA[:, answered]
    if answer_KxA.shape[1] == 2:
        both = answer_KxA[(answer_KxA != MISSING).all(1)]
        return cohen_kappa(both[:, 0], both[:, 1])
    return fleiss_kappa(np.stack([(answer_KxA == x).sum(1) for x in (FIRST, TIE, SECOND)], 1))


def cohen_kappa(one_K: np.ndarray, other_K: np.ndarray) -> float:
    """Agreement of two beyond that of their own frequencies (Cohen 1960)."""
    if not len(one_K):
        return math.nan
    values = np.union1d(one_K, other_K)
    chance = sum((one_K == value).mean() * (other_K == value).mean() for value in values)
    return _beyond(float((one_K == other_K).mean()), float(chance))


def fleiss_kappa(count_KxC: np.ndarray) -> float:
    """Agreement of any number beyond that of the frequencies of all (Fleiss 1971).

    Args:
      count_KxC: how many gave each answer. Rows may differ in how many answered; those with fewer
        than two are left out.
    """
    given_K = count_KxC.sum(1)
    count_KxC, given_K = count_KxC[given_K > 1], given_K[given_K > 1]
    if not len(given_K):
        return math.nan
    agree_K = (count_KxC * (count_KxC - 1)).sum(1) / (given_K * (given_K - 1))
    share_C = count_KxC.sum(0) / count_KxC.sum()
    return _beyond(float(agree_K.mean()), float((share_C**2).sum()))


def _beyond(found: float, chance: float) -> float:
    return (found - chance) / (1 - chance) if chance < 1 - 1e-12 else math.nan


def table(found: Mapping[str, Outcome], runs: Sequence[str]) -> str:
    """Markdown: a line for each criterion, of the first run against the second."""
    first, second = (run.rstrip("/").rpartition("/")[2] or run for run in runs)
    head = ["", f"{first} wins", "ties", f"{second} wins", f"win rate of {first}"]
    head += ["95 % interval", "p", "kappa", "left preferred"]
    lines = [head, ["---"] * len(head)]
    for criterion, of in found.items():
        interval = f"{of.low:.1%} to {of.high:.1%}" if finite(of.low) else "–"
        cells = [criterion, of.wins, of.ties, of.losses, formatted(of.win_rate, "{:.1%}"), interval]
        cells += [formatted(of.p, "{:.3f}"), formatted(of.kappa, "{:.2f}")]
        cells.append(formatted(of.left_rate, "{:.1%}"))
        lines.append([str(cell) or "–" for cell in cells])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
