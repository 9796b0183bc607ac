"""Renders the page of `igerg_jax.tools.show`, in the style of a run's report."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from igerg_jax.data.prepared import Prepared
from igerg_jax.objectives import OBJECTIVES
from igerg_jax.objectives.display import Line, Token
from igerg_jax.report import templates


@dataclasses.dataclass(frozen=True)
class Slot:
    """An image slot of a row of a batch."""

    image: str  # its address in the page; "" = none
    note: str  # shown instead of an image: why there is none, or a summary of its features
    emotion: int  # its label, or UNKNOWN
    turn: int  # which turn it shows; -1 = the slot is masked


@dataclasses.dataclass(frozen=True)
class Example:
    """A row of a batch.

    Attributes:
      response_slot: the response's image slot; -1 for a turn that stands alone.
      cut: {"context" or "response": tokens that did not fit into the batch}, if any.
    """

    dataset: str
    window: int
    position: int
    response_slot: int
    slots: list[Slot]
    sequence_emotion: int
    response_emotion: int
    cut: dict[str, int]
    objectives: dict[str, list[Line]]


@dataclasses.dataclass(frozen=True)
class Group:
    """The batch of one mixture ("" = the main one), and the objectives trained on it."""

    name: str
    objectives: list[str]
    examples: list[Example]


def render(groups: Sequence[Group], prepared: Prepared, config: ConfigDict, step: int) -> str:
    """The page, as HTML."""
    return templates.render(
        pathlib.Path(__file__).parent / "show.html",
        title=f"{config.name} · {config.preset}",
        groups=groups,
        step=step,
        config=config,
        data=config.data,
        datasets=list(prepared.datasets),
        vocab_size=prepared.tokenizer.vocab_size,
        summaries={name: objective.summary for name, objective in OBJECTIVES.items()},
        runs=runs,
    )


def runs(tokens: Sequence[Token]) -> list[tuple[int, list[Token]]]:
    """(turn, tokens) of each stretch of tokens of one turn."""
    stretches = itertools.groupby(tokens, key=lambda token: token.turn)
    return [(turn, list(stretch)) for turn, stretch in stretches]
