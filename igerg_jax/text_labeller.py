"""A second labeller of texts: TF-IDF and logistic regression, trained on labels by people.

It shares nothing with the lexicon, which labels the embedded data, nor with a run's own judge, so a
model that has only learnt to please one of those does not score well with it.
`igerg_jax.tools.train_text_labeller` trains it with scikit-learn; here it is read from arrays
(.npz, no pickle) and applied with NumPy.

A text is represented by two concatenated vectors, each of Euclidean length 1: of its runs of one
and two words, and of the runs of two to five characters within its words (scikit-learn's `char_wb`:
a space on either side of a word is part of it). An entry is (1 + ln count) * idf. F = entries of
both, C = emotions.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special
from etils import epath

from igerg_jax import storage
from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS
from igerg_jax.errors import UserError

# Shared with scikit-learn's vectorizers in training. ! and ? are words: they carry emotion.
WORD_PATTERN = r"[\w']+|[!?]"
WORD_NGRAMS = (1, 2)
CHARACTER_NGRAMS = (2, 5)
_WORD = re.compile(WORD_PATTERN)


@dataclasses.dataclass(frozen=True)
class TextLabeller:
    """A trained labeller.

    Attributes:
      words, characters: the n-grams that have an entry, in order.
      idf_F: float32, for `words` and then `characters`.
      coefficients_FxC, intercepts_C: float32, of the logistic regression.
      held_out: {dataset: {split: {"examples", "accuracy", "weighted_f1", "macro_f1"}}}, measured
        after training, on held-out texts.
    """

    words: tuple[str, ...]
    characters: tuple[str, ...]
    idf_F: np.ndarray
    coefficients_FxC: np.ndarray
    intercepts_C: np.ndarray
    held_out: Mapping[str, Mapping[str, Mapping[str, float]]]

    def __post_init__(self) -> None:
        entries = len(self.words) + len(self.characters)
        shapes = ((entries,), (entries, NUM_EMOTIONS), (NUM_EMOTIONS,))
        arrays = (self.idf_F, self.coefficients_FxC, self.intercepts_C)
        if tuple(array.shape for array in arrays) != shapes:
            raise ValueError(f"arrays of shapes {[a.shape for a in arrays]} are not {shapes}")

    @functools.cached_property
    def _vectors(self) -> tuple[tuple[Callable[[str], Iterable[str]], dict[str, int]], ...]:
        """(the n-grams of a text, {n-gram: its entry}) of either vector."""
        words = {name: i for i, name in enumerate(self.words)}
        characters = {name: i for i, name in enumerate(self.characters, len(words))}
        return (word_ngrams, words), (character_ngrams, characters)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Emotion probabilities of each text, float64 [N, C] in the order of `EMOTIONS`."""
        logits_NxC = np.tile(self.intercepts_C.astype(np.float64), (len(texts), 1))
        for logits_C, text in zip(logits_NxC, texts, strict=True):
            for ngrams, entries in self._vectors:
                counts = collections.Counter(ngrams(text))
                known = {entries[name]: n for name, n in counts.items() if name in entries}
                if not known:
                    continue
                at_K = np.fromiter(known, np.int64)
                value_K = (1 + np.log(list(known.values()))) * self.idf_F[at_K]
                logits_C += value_K / np.linalg.norm(value_K) @ self.coefficients_FxC[at_K]
        return scipy.special.softmax(logits_NxC, 1)

    def labels(self, texts: Sequence[str]) -> np.ndarray:
        """The likeliest emotion of each text, int64 [N]."""
        return self.probabilities(texts).argmax(1)


def word_ngrams(text: str) -> Iterable[str]:
    """The n-grams of a text's lower-case words, `WORD_NGRAMS` long, joined by spaces."""
    words = _WORD.findall(text.lower())
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


def write(path: epath.PathLike, labeller: TextLabeller) -> None:
    """Writes a labeller's file, a compressed .npz."""
    arrays = {
        "emotions": np.array(EMOTIONS),
        "words": np.array(labeller.words, np.str_),
        "characters": np.array(labeller.characters, np.str_),
        "idf": labeller.idf_F,
        "coefficients": labeller.coefficients_FxC,
        "intercepts": labeller.intercepts_C,
        "held_out": np.array(json.dumps(labeller.held_out)),
    }
    with storage.replacing(epath.Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # NumPy's stubs


def read(path: epath.PathLike) -> TextLabeller:
    """Reads the file of a labeller.

    Raises:
      UserError: there is no such file, or `write` did not write it.
    """
    path = epath.Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"there is no text labeller '{path}' (evaluate.text_labeller): train one with "
            "python -m igerg_jax.tools.train_text_labeller"
        )
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            if tuple(arrays["emotions"]) != EMOTIONS:
                raise ValueError(f"its emotions are {', '.join(arrays['emotions'])}")
            return TextLabeller(
                words=tuple(arrays["words"].tolist()),
                characters=tuple(arrays["characters"].tolist()),
                idf_F=arrays["idf"],
                coefficients_FxC=arrays["coefficients"],
                intercepts_C=arrays["intercepts"],
                held_out=json.loads(arrays["held_out"].item()),
            )
    except Exception as error:  # of many types: zlib's, NumPy's, the zip file's
        raise UserError(
            f"'{path}' is not a file of igerg_jax.tools.train_text_labeller ({error}); train it "
            "again"
        ) from error


def of_config(config: Any) -> TextLabeller | None:
    """The labeller that `config.evaluate.text_labeller` names; None if it names none.

    Raises:
      UserError: as for `read`.
    """
    return read(config.evaluate.text_labeller) if config.evaluate.text_labeller else None
