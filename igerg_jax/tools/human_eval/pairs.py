"""What people compare: pairs of responses to one conversation, in an order drawn at random."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.evaluation import samples
from igerg_jax.report.gallery import gallery, objects
from igerg_jax.storage import read_json_lines, read_json_object

# {criterion: what is asked}. For a pair, each is answered by one of `CHOICES`.
CRITERIA = {
    "appropriateness": "Which response fits the conversation better?",
    "informativeness": "Which response says more that is to the point?",
    "emotion": "Which response has the emotion that the responder's face shows?",
}
LEFT, SAME, RIGHT = CHOICES = ("left", "same", "right")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A conversation with two responses.

    Attributes:
      card: the conversation, as `report.gallery` has it.
      responses: the left one and the right one.
      left_run: 0 or 1, which run the left one is of.
    """

    name: str
    card: Mapping[str, Any]
    responses: tuple[str, str]
    left_run: int


def pairs(runs: Sequence[str], count: int, seed: int) -> list[Pair]:
    """At most `count` pairs out of the samples.jsonl of two runs, in random order.

    Each run is on the left in half of them. Equal responses are left out, and their number is
    printed: there is nothing to compare.

    Raises:
      UserError: not two runs, one without samples, or none to the same conversations.
    """
    if len(runs) != 2:
        raise UserError(f"--runs names {len(runs)} runs; it takes two, with a comma between them")
    first, second = ({_key(row): row for row in _samples(run)} for run in runs)
    shared = [key for key in first if key in second]
    if not shared:
        raise UserError(
            f"'{runs[0]}' and '{runs[1]}' have no conversation of their {samples.FILE} in common"
        )
    different = [k for k in shared if first[k]["generated"] != second[k]["generated"]]
    if not different:
        raise UserError("both runs respond alike to every conversation")
    if alike := len(shared) - len(different):
        print(f"left out {alike} of {len(shared)} conversations: both runs respond alike")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(different))[:count]
    left_runs = rng.permutation(np.arange(len(chosen)) % 2)
    found = []
    for number, (i, left) in enumerate(zip(chosen, left_runs, strict=True)):
        rows = (first[different[i]], second[different[i]])
        (card,) = gallery([rows[0]])["cards"]
        responses = rows[left]["generated"], rows[1 - left]["generated"]
        found.append(Pair(f"c{number + 1}", card, responses, int(left)))
    return found


def digest(of: Sequence[Pair]) -> str:
    """Sixteen hex digits of what a page shows: answers name them, so that they find their key."""
    shown = [(pair.name, pair.card["number"], pair.responses) for pair in of]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def key(of: Sequence[Pair], runs: Sequence[str], seed: int) -> dict[str, Any]:
    """What the page does not say: which run is on the left, conversation by conversation."""
    return {
        "page": digest(of),
        "runs": list(runs),
        "seed": seed,
        "left_run": {pair.name: pair.left_run for pair in of},
        "windows": {pair.name: pair.card["number"] for pair in of},
    }


def read_key(path: str) -> dict[str, Any]:
    """The file of a `key`. Raises UserError where it is none."""
    found = read_json_object(storage.local_path(path))
    left, runs = found.get("left_run"), found.get("runs")
    if (
        not isinstance(found.get("page"), str)
        or not (isinstance(left, dict) and all(run in (0, 1) for run in left.values()))
        or not (isinstance(runs, list) and list(map(type, runs)) == [str, str])
    ):
        raise UserError(f"--key={path} is not the key of a page: it names no runs and no order")
    return found


def read_answers(path: str, page: str) -> dict[str, dict[str, str]]:
    """{conversation: {criterion: choice}} of a file that the page has exported.

    Raises:
      UserError: it is not such a file, or is of another page.
    """
    found = read_json_object(storage.local_path(path))
    if not isinstance(found.get("answers"), dict):
        raise UserError(f"'{path}' has no answers: the page's button Export writes such files")
    if found.get("page") != page:
        raise UserError(f"'{path}' answers page {found.get('page')}, and the key is of page {page}")
    return {
        name: {c: v for c, v in of.items() if c in CRITERIA and v in CHOICES}
        for name, of in found["answers"].items()
        if isinstance(of, dict)
    }


def _samples(run: str) -> list[dict[str, Any]]:
    path = storage.local_path(run) / samples.FILE
    rows = read_json_lines(path).objects
    if not rows:
        raise UserError(f"'{run}' has no {samples.FILE}: the run's end or igerg generate writes it")
    return [row for row in rows if isinstance(row.get("generated"), str)]


def _key(row: Mapping[str, Any]) -> str:
    """What is the same where two runs have responded to one conversation."""
    texts = [turn.get("text") for turn in objects(row.get("context"))]
    return json.dumps([row.get("index"), row.get("reference"), texts])
