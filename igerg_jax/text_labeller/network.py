"""A convolutional network over the words of a text (Kim 2014).

It reads words in their order, where `linear` counts n-grams, so the two make different errors.
Convolutions over one, two and three words are max-pooled over the text; a linear layer maps the
result to emotions. V = vocabulary, D = width of an embedding, P =
features of a width of windows, C = emotions, W = words of the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.text_labeller import reading
from igerg_jax.text_labeller.reading import HeldOut

WIDTHS = (1, 2, 3)  # words of a window
MAX_WORDS = 64  # the rest of a text is not read
NOTHING, UNKNOWN_WORD = 0, 1  # ids: after a text's end, whose embedding is 0; not in the vocabulary
FIRST_WORD = 2


@dataclasses.dataclass(frozen=True)
class Network(reading.TextLabeller):
    """A trained labeller; arrays are float32.

    Attributes:
      words: of the vocabulary; the first has the id `FIRST_WORD`.
      embedding_VxD: of all ids.
      kernels, biases: [width * D, P] and [P] for each of `WIDTHS`.
      output_FxC, intercepts_C: of all features, those of the narrowest windows first.
    """

    kind: ClassVar[str] = "convolutional network over words"

    words: tuple[str, ...]
    embedding_VxD: np.ndarray
    kernels: Sequence[np.ndarray]
    biases: Sequence[np.ndarray]
    output_FxC: np.ndarray
    intercepts_C: np.ndarray
    held_out: HeldOut
    _ids: dict[str, int] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        width, features = self.embedding_VxD.shape[-1], self.biases[0].shape[-1]
        reading.check_shapes(
            (self.embedding_VxD, (FIRST_WORD + len(self.words), width)),
            *((k, (n * width, features)) for n, k in zip(WIDTHS, self.kernels, strict=True)),
            *((bias, (features,)) for bias in self.biases),
            (self.output_FxC, (len(WIDTHS) * features, NUM_EMOTIONS)),
            (self.intercepts_C, (NUM_EMOTIONS,)),
        )
        object.__setattr__(self, "_ids", ids_of(self.words))

    def logits(self, text: str) -> np.ndarray:
        """float32 [C]"""
        id_W = encode(text, self._ids)
        if not len(id_W):
            return self.intercepts_C
        padded = np.pad(self.embedding_VxD[id_W], ((0, WIDTHS[-1] - 1), (0, 0)))
        largest = []
        for n, kernel, bias_P in zip(WIDTHS, self.kernels, self.biases, strict=True):
            window_WxnD = np.concatenate([padded[i : i + len(id_W)] for i in range(n)], axis=1)
            largest.append(np.maximum(window_WxnD @ kernel + bias_P, 0).max(0))
        return np.concatenate(largest) @ self.output_FxC + self.intercepts_C

    def arrays(self) -> dict[str, np.ndarray]:
        named = {f"kernel{n}": kernel for n, kernel in zip(WIDTHS, self.kernels, strict=True)}
        named |= {f"bias{n}": bias for n, bias in zip(WIDTHS, self.biases, strict=True)}
        return named | {
            "vocabulary": np.array(self.words, np.str_),
            "embedding": self.embedding_VxD,
            "output": self.output_FxC,
            "intercepts": self.intercepts_C,
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any], held_out: HeldOut) -> Network:
        return cls(
            words=tuple(arrays["vocabulary"].tolist()),
            embedding_VxD=arrays["embedding"],
            kernels=[arrays[f"kernel{n}"] for n in WIDTHS],
            biases=[arrays[f"bias{n}"] for n in WIDTHS],
            output_FxC=arrays["output"],
            intercepts_C=arrays["intercepts"],
            held_out=held_out,
        )


def ids_of(words: Sequence[str]) -> dict[str, int]:
    """The id of each word of a vocabulary."""
    return {word: FIRST_WORD + i for i, word in enumerate(words)}


def encode(text: str, ids: Mapping[str, int]) -> np.ndarray:
    """int64 [W], the ids of at most `MAX_WORDS` words."""
    found = reading.words(text)[:MAX_WORDS]
    return np.array([ids.get(word, UNKNOWN_WORD) for word in found], np.int64)
