"""TF-IDF and logistic regression.

A text is represented by two concatenated vectors, each of Euclidean length 1: of its runs of one
and two words, and of the runs of two to five characters within its words (scikit-learn's `char_wb`:
a space on either side of a word is part of it). An entry is (1 + ln count) * idf. F = entries of
both, C = emotions.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.text_labeller import reading
from igerg_jax.text_labeller.reading import HeldOut

WORD_NGRAMS = (1, 2)
CHARACTER_NGRAMS = (2, 5)


@dataclasses.dataclass(frozen=True)
class Linear(reading.TextLabeller):
    """A trained labeller.

    Attributes:
      words, characters: the n-grams that have an entry, in order.
      idf_F: float32, for `words` and then `characters`.
      coefficients_FxC, intercepts_C: float32, of the logistic regression.
    """

    kind: ClassVar[str] = "TF-IDF and logistic regression"

    words: tuple[str, ...]
    characters: tuple[str, ...]
    idf_F: np.ndarray
    coefficients_FxC: np.ndarray
    intercepts_C: np.ndarray
    held_out: HeldOut

    def __post_init__(self) -> None:
        entries = len(self.words) + len(self.characters)
        reading.check_shapes(
            (self.idf_F, (entries,)),
            (self.coefficients_FxC, (entries, NUM_EMOTIONS)),
            (self.intercepts_C, (NUM_EMOTIONS,)),
        )

    @functools.cached_property
    def _vectors(self) -> tuple[tuple[Callable[[str], Iterable[str]], dict[str, int]], ...]:
        """(the n-grams of a text, {n-gram: its entry}) of either vector."""
        words = {name: i for i, name in enumerate(self.words)}
        characters = {name: i for i, name in enumerate(self.characters, len(words))}
        return (word_ngrams, words), (character_ngrams, characters)

    def logits(self, text: str) -> np.ndarray:
        """float64 [C]"""
        logits_C = self.intercepts_C.astype(np.float64)
        for ngrams, entries in self._vectors:
            counts = collections.Counter(ngrams(text))
            known = {entries[name]: n for name, n in counts.items() if name in entries}
            if known:
                at_K = np.fromiter(known, np.int64)
                value_K = (1 + np.log(list(known.values()))) * self.idf_F[at_K]
                logits_C += value_K / np.linalg.norm(value_K) @ self.coefficients_FxC[at_K]
        return logits_C

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "words": np.array(self.words, np.str_),
            "characters": np.array(self.characters, np.str_),
            "idf": self.idf_F,
            "coefficients": self.coefficients_FxC,
            "intercepts": self.intercepts_C,
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any], held_out: HeldOut) -> Linear:
        return cls(
            words=tuple(arrays["words"].tolist()),
            characters=tuple(arrays["characters"].tolist()),
            idf_F=arrays["idf"],
            coefficients_FxC=arrays["coefficients"],
            intercepts_C=arrays["intercepts"],
            held_out=held_out,
        )


def word_ngrams(text: str) -> Iterable[str]:
    """The n-grams of a text's lower-case words, `WORD_NGRAMS` long, joined by spaces."""
    words = reading.words(text)
    for n in range(WORD_NGRAMS[0], WORD_NGRAMS[1] + 1):
        for start in range(len(words) - n + 1):
            yield " ".join(words[start : start + n])


def character_ngrams(text: str) -> Iterable[str]:
    """The n-grams of each word's characters and a space on either side, `CHARACTER_NGRAMS` long."""
    for word in text.lower().split():
        padded = f" {word} "
        for n in range(CHARACTER_NGRAMS[0], min(CHARACTER_NGRAMS[1], len(padded)) + 1):
            for start in range(len(padded) - n + 1):
                yield padded[start : start + n]
