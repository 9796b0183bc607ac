"""How an objective shows its inputs: rows of a batch as tokens and lines. NumPy only.

`igerg_jax.tools.show` makes a page of them. Letters as in `igerg_jax.batch`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from igerg_jax.models.igerg import Igerg


class Token(NamedTuple):
    """A token as text, its turn (-1 = none), and "mask", "random", "kept", "special" or ""."""

    piece: str
    turn: int
    kind: str


class Line(NamedTuple):
    """What an objective is given or asked for: a caption, tokens, and emotions.

    An emotion is (the turn whose image shows it, or -1; its id or UNKNOWN).
    """

    caption: str
    tokens: list[Token]
    emotions: tuple[tuple[int, int], ...] = ()


class RowInput(NamedTuple):
    """What the encoder is given of one example for an objective (`base.EncoderInput`)."""

    has_images: bool
    tokens_S: np.ndarray | None = None  # None, as turn_S, without text
    turn_S: np.ndarray | None = None
    drawn: Any = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One example, as an objective receives it: arrays have no batch axis."""

    arrays: Mapping[str, np.ndarray]  # of the batch
    encoder_input: RowInput | None  # of the objective; None if it has none
    settings: Mapping[str, Any]  # the keys of `config.objectives.<name>`
    model: Igerg
    tokenizer: Any  # has `special`, a `SpecialIds`, and `piece(id)`, a token's text

    def tokens(self, ids_L, turn_L=None, kinds_L=None) -> list[Token]:
        """The tokens up to the padding, with their turns and kinds where those are given."""
        special = self.tokenizer.special
        roles = dataclasses.astuple(special)
        tokens = []
        for at in range(int((ids_L != special.pad).sum())):
            token = int(ids_L[at])
            kind = "" if kinds_L is None else str(kinds_L[at])
            if token in roles:
                kind = "mask" if token == special.mask else "special"
            turn = -1 if turn_L is None else int(turn_L[at])
            tokens.append(Token(self.tokenizer.piece(token), turn, kind))
        return tokens

    def encoder_line(self, kinds_S=None) -> Line:
        """What the encoder is given for this objective."""
        given = self.encoder_input
        if given.tokens_S is None:
            return Line("The encoder is given the images alone", [])
        beside = "the images and" if given.has_images else "no images, and"
        tokens = self.tokens(given.tokens_S, given.turn_S, kinds_S)
        return Line(f"The encoder is given {beside}", tokens)

    def decoder_lines(self, target_T: np.ndarray, turn_T=None) -> list[Line]:
        """The decoder's input and its targets."""
        special = self.tokenizer.special
        shifted_T = np.concatenate([[special.decoder_start], target_T[:-1]])
        shifted_T = np.where(target_T == special.pad, special.pad, shifted_T)
        return [
            Line("The decoder is given", self.tokens(shifted_T)),
            Line("and has to write", self.tokens(target_T, turn_T)),
        ]

    def image_emotions(self) -> tuple[tuple[int, int], ...]:
        """(turn, emotion) of each image."""
        turn_N, emotion_N = self.arrays["image_turn"], self.arrays["image_emotion"]
        real = np.flatnonzero(self.arrays["image_mask"])
        return tuple((int(turn_N[i]), int(emotion_N[i])) for i in real)
