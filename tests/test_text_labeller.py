"""The second labeller of texts, as it is read and applied."""

from __future__ import annotations

import numpy as np
import pytest
import small

from igerg_jax import checks, text_labeller
from igerg_jax.batch import EMOTION_ID, EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.text_labeller import TextLabeller

HELD_OUT = {"meld": {"test": {"examples": 3, "accuracy": 0.5}}}


def by_hand(words=("happy", "so happy"), characters=("ba", " ba")) -> TextLabeller:
    rng = np.random.default_rng(0)
    size = len(words) + len(characters)
    return TextLabeller(
        words=words,
        characters=characters,
        idf_F=np.linspace(1, 2, size, dtype=np.float32),
        coefficients_FxC=rng.standard_normal((size, 7), np.float32),
        intercepts_C=rng.standard_normal(7, np.float32),
        held_out=HELD_OUT,
    )


def test_ngrams_by_hand():
    assert list(text_labeller.word_ngrams("I'm SO happy!")) == [
        *("i'm", "so", "happy", "!"),
        *("i'm so", "so happy", "happy !"),
    ]
    found = list(text_labeller.character_ngrams(" A  bcd"))
    assert found == [" a", "a ", " a ", *" b,bc,cd,d , bc,bcd,cd , bcd,bcd , bcd ".split(",")]


def test_probabilities_by_hand():
    labeller = by_hand()
    idf, weights = labeller.idf_F.astype(float), labeller.coefficients_FxC
    words = np.array([(1 + np.log(2)) * idf[0], idf[1]])
    logits = labeller.intercepts_C + words / np.linalg.norm(words) @ weights[:2]
    characters = np.array([(1 + np.log(2)) * idf[2], (1 + np.log(2)) * idf[3]])
    logits = logits + characters / np.linalg.norm(characters) @ weights[2:]
    expected = np.exp(logits) / np.exp(logits).sum()
    found = labeller.probabilities(["Happy bar, so happy bat", "nothing of it"])
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    alone = np.exp(labeller.intercepts_C.astype(float))
    np.testing.assert_allclose(found[1], alone / alone.sum(), rtol=1e-6)
    np.testing.assert_array_equal(labeller.labels(["x"]), [alone.argmax()])
    assert labeller.probabilities([]).shape == (0, 7)


def test_a_file_gives_back_what_was_written_and_holds_no_pickle(tmp_path):
    labeller = by_hand(words=("é", "naïve !"), characters=("a ", "  "))
    text_labeller.write(tmp_path / "labeller.npz", labeller)
    read = text_labeller.read(tmp_path / "labeller.npz")
    assert (read.words, read.characters) == (labeller.words, labeller.characters)
    assert read.held_out == HELD_OUT
    texts = ["É naïve!", "a a", ""]
    np.testing.assert_array_equal(read.probabilities(texts), labeller.probabilities(texts))
    with np.load(tmp_path / "labeller.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays)


def test_what_is_no_labeller_is_refused_before_anything_compiles(tmp_path):
    path = str(tmp_path / "none.npz")
    config = small.make_config(evaluate__text_labeller=path, generate__max_tokens=6)
    with pytest.raises(UserError, match=r"none\.npz.*train_text_labeller"):
        checks.check_inference(config)
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "order.npz", emotions=np.array(EMOTIONS[::-1]))
    np.savez(tmp_path / "pickled.npz", emotions=np.array([EMOTION_ID], object))
    for name in ("text", "other", "order", "pickled"):
        with pytest.raises(UserError, match=rf"{name}\.npz"):
            text_labeller.read(tmp_path / f"{name}.npz")
    assert text_labeller.of_config(small.make_config()) is None
