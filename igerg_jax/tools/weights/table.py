"""What a source's table says: which of its tensors is which of our parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

Row = tuple[str, str, str]  # their name, our parameter, how: a key of `transforms.TRANSFORMS`


@dataclasses.dataclass(frozen=True)
class Table:
    """One source. In patterns, `*` of a row stands for a layer's number, elsewhere for anything.

    Attributes:
      name: of the source, for messages.
      part: "text" or "vision".
      download: what a person could download, for messages.
      marker: a tensor that only this source has, by which a file without a config.json is known.
      prefixes: what their names may start with, and ours for them do not.
      rows: every tensor that is taken.
      settings: (config.json or {}, their names) -> {key under config.model: the value that
        computes what this model does}.
      refusals: (config.json or {}) -> what this model has and ours cannot compute.
      pixels: (mean, standard deviation) a channel that our tower takes off its images and divides
        them by; () = it reads none.
      left: {their pattern: why it is left out}.
      copies: {their name: names that must hold the same}.
      zeros: {their name: why it must be zero}.
      derived: {parameter of ours alone: why it becomes zero}.
      new: {pattern of parameters of ours alone: why they stay as initialised}.
    """

    name: str
    part: str
    download: str
    marker: str
    prefixes: tuple[str, ...]
    rows: tuple[Row, ...]
    settings: Callable[[Mapping[str, Any], Collection[str]], dict[str, Any]]
    refusals: Callable[[Mapping[str, Any]], list[str]]
    left: Mapping[str, str]
    pixels: tuple[tuple[float, ...], ...] = ()
    copies: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    zeros: Mapping[str, str] = dataclasses.field(default_factory=dict)
    derived: Mapping[str, str] = dataclasses.field(default_factory=dict)
    new: Mapping[str, str] = dataclasses.field(default_factory=dict)
