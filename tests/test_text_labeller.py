"""Text labellers: reading their files and applying them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import small

from igerg_jax import checks, text_labeller
from igerg_jax.batch import EMOTION_ID, EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.text_labeller import Linear, Network, linear, network

HELD_OUT = {"meld": {"test": {"examples": 3, "accuracy": 0.5}}}


def by_hand(words=("happy", "so happy"), characters=("ba", " ba")) -> Linear:
    rng = np.random.default_rng(0)
    size = len(words) + len(characters)
    return Linear(
        words=words,
        characters=characters,
        idf_F=np.linspace(1, 2, size, dtype=np.float32),
        coefficients_FxC=rng.standard_normal((size, 7), np.float32),
        intercepts_C=rng.standard_normal(7, np.float32),
        held_out=HELD_OUT,
    )


def test_ngrams_by_hand():
    assert list(linear.word_ngrams("I'm SO happy!")) == [
        *("i'm", "so", "happy", "!"),
        *("i'm so", "so happy", "happy !"),
    ]
    found = list(linear.character_ngrams(" A  bcd"))
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


def a_network(words=("so", "happy", "!")) -> Network:
    rng = np.random.default_rng(1)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    embedding_VxD = normal(2 + len(words), 4)
    embedding_VxD[network.NOTHING] = 0
    return Network(
        words=words,
        embedding_VxD=embedding_VxD,
        kernels=[normal(n * 4, 5) for n in network.WIDTHS],
        biases=[normal(5) for _ in network.WIDTHS],
        output_FxC=normal(15, 7),
        intercepts_C=normal(7),
        held_out=HELD_OUT,
    )


def test_a_networks_probabilities_by_hand():
    """ "So glad!" is a known word, an unknown one and a mark; windows start at each."""
    found = a_network()
    so, unknown, mark = found.embedding_VxD[[2, 1, 4]]
    nothing = np.zeros(4)
    windows = {
        1: [[so], [unknown], [mark]],
        2: [[so, unknown], [unknown, mark], [mark, nothing]],
        3: [[so, unknown, mark], [unknown, mark, nothing], [mark, nothing, nothing]],
    }
    features = []
    for (n, of_width), kernel, bias in zip(
        windows.items(), found.kernels, found.biases, strict=True
    ):
        values = [np.concatenate(window) @ kernel + bias for window in of_width]
        features.append(np.max([*values, np.zeros(5)], axis=0))
        assert len(values) == 3 and kernel.shape == (4 * n, 5)
    logits = np.concatenate(features) @ found.output_FxC + found.intercepts_C
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(found.probabilities(["So glad!"])[0], expected, rtol=1e-5)
    alone = np.exp(found.intercepts_C.astype(float))
    np.testing.assert_allclose(found.probabilities([""])[0], alone / alone.sum(), rtol=1e-5)
    # Words count in their order, and only so many of them.
    swapped = found.probabilities(["happy so", "so happy"])
    assert np.abs(swapped[0] - swapped[1]).max() > 1e-3
    long = "happy " * network.MAX_WORDS
    assert found.logits(long + "so").tolist() == found.logits(long).tolist()


@pytest.mark.parametrize("name", ["embedding_VxD", "output_FxC", "intercepts_C"])
def test_arrays_that_do_not_fit_are_refused(name):
    fields = {f.name: getattr(a_network(), f.name) for f in dataclasses.fields(Network) if f.init}
    with pytest.raises(ValueError, match="shapes"):
        Network(**fields | {name: fields[name][:-1]})


@pytest.mark.parametrize(
    "labeller",
    [by_hand(words=("é", "naïve !"), characters=("a ", "  ")), a_network(words=("é", "a"))],
)
def test_a_file_gives_back_what_was_written_and_holds_no_pickle(labeller, tmp_path):
    text_labeller.write(tmp_path / "labeller.npz", labeller)
    read = text_labeller.read(tmp_path / "labeller.npz")
    assert type(read) is type(labeller) and read.words == labeller.words
    assert read.held_out == HELD_OUT
    texts = ["É naïve!", "a a", ""]
    np.testing.assert_array_equal(read.probabilities(texts), labeller.probabilities(texts))
    with np.load(tmp_path / "labeller.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays)


def test_a_file_from_before_kinds_is_linear(tmp_path):
    text_labeller.write(tmp_path / "new.npz", by_hand())
    with np.load(tmp_path / "new.npz") as arrays:
        np.savez(tmp_path / "old.npz", **{k: v for k, v in arrays.items() if k != "kind"})
    assert isinstance(text_labeller.read(tmp_path / "old.npz"), Linear)


def test_a_config_names_one_file_or_two(tmp_path):
    for name, labeller in {"a": by_hand(), "b": a_network()}.items():
        text_labeller.write(tmp_path / f"{name}.npz", labeller)
    one, two = (str(tmp_path / f"{name}.npz") for name in "ab")
    read = lambda paths: text_labeller.of_config(small.make_config(evaluate__text_labeller=paths))  # noqa: E731
    assert {k: type(v) for k, v in read(one).items()} == {"second": Linear}
    both = read(f"{two}, {one}")
    assert {k: type(v) for k, v in both.items()} == {"second": Network, "third": Linear}
    kinds = {k: list(v) for k, v in text_labeller.summary(both).items()}
    assert kinds == {"second": [Network.kind], "third": [Linear.kind]}
    with pytest.raises(UserError, match="names 3 files; 2 at most"):
        read(f"{one},{two},{one}")


def test_what_is_no_labeller_is_refused_before_anything_compiles(tmp_path):
    path = str(tmp_path / "none.npz")
    config = small.make_config(evaluate__text_labeller=path, generate__max_tokens=6)
    with pytest.raises(UserError, match=r"none\.npz.*train_text_labeller"):
        checks.check_inference(config)
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "order.npz", emotions=np.array(EMOTIONS[::-1]))
    np.savez(tmp_path / "pickled.npz", emotions=np.array([EMOTION_ID], object))
    np.savez(tmp_path / "newer.npz", emotions=np.array(EMOTIONS), kind=np.array("oracle"))
    for name in ("text", "other", "order", "pickled", "newer"):
        with pytest.raises(UserError, match=rf"{name}\.npz"):
            text_labeller.read(tmp_path / f"{name}.npz")
    assert text_labeller.of_config(small.make_config()) == {}
