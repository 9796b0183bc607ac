"""What every labeller has: words, emotion probabilities, and how well it does."""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from igerg_jax.batch import NUM_EMOTIONS

# Shared with scikit-learn's vectorizers in training. ! and ? are words: they carry emotion.
WORD_PATTERN = r"[\w']+|[!?]"
_WORD = re.compile(WORD_PATTERN)

# {dataset: {split: {"examples", "accuracy", "weighted_f1", "macro_f1", "majority_rate"}}}
HeldOut = Mapping[str, Mapping[str, Mapping[str, float]]]


class TextLabeller(abc.ABC):
    """Names the emotion of a text.

    Attributes:
      kind: what it is, in a few words.
      held_out: measured after training, on held-out texts.
    """

    kind: ClassVar[str]
    held_out: HeldOut

    @abc.abstractmethod
    def logits(self, text: str) -> np.ndarray:
        """Unnormalised log-probability of each emotion, [C] in the order of `EMOTIONS`."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """What `of_arrays` of the class takes: all of it but `held_out`."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Emotion probabilities of each text, float64 [N, C]."""
        rows = [self.logits(text).astype(np.float64) for text in texts]
        logits_NxC = np.stack(rows) if rows else np.zeros((0, NUM_EMOTIONS))
        p_NxC = np.exp(logits_NxC - logits_NxC.max(1, keepdims=True, initial=-np.inf))
        return p_NxC / p_NxC.sum(1, keepdims=True)

    def labels(self, texts: Sequence[str]) -> np.ndarray:
        """The likeliest emotion of each text, int64 [N]."""
        return self.probabilities(texts).argmax(1)


def words(text: str) -> list[str]:
    """The words of a text, lower-case, and the marks ! and ?."""
    return _WORD.findall(text.lower())


def check_shapes(*pairs: tuple[np.ndarray, tuple[int, ...]]) -> None:
    """Raises ValueError where arrays are not of the shapes that they should have."""
    found, wanted = [array.shape for array, _ in pairs], [shape for _, shape in pairs]
    if found != wanted:
        raise ValueError(f"arrays of shapes {found} are not {wanted}")
