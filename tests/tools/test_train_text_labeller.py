"""Training of text labellers, against scikit-learn's own predictions."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import raw_data

from igerg_jax import text_labeller
from igerg_jax.batch import EMOTION_ID, EMOTIONS, UNKNOWN
from igerg_jax.data.builders.source import Options
from igerg_jax.errors import UserError
from igerg_jax.text_labeller import network
from igerg_jax.tools import text_network
from igerg_jax.tools import train_text_labeller as tool

needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None,
    reason="scikit-learn trains the labeller: pip install -r requirements-evidence.txt",
)
SAID = {
    "surprise": "wow really, I never knew",
    "fear": "I'm afraid of it, help",
    "disgust": "that is so gross, yuck",
    "joy": "great, I love it!",
    "sadness": "I miss him so much",
    "anger": "shut up, you liar",
    "neutral": "it is on the table",
}
ODD = ["", " ", "Wow!! Wow?", "a", "I’m SO\tgross…", "naïve café ☕", "l'été it's 'bout", "x" * 40]
DAILY = ("neutral", "anger", "disgust", "fear", "joy", "sadness", "surprise")  # its own order


def put_meld(folder, dialogues: dict[str, int]) -> None:
    for name, count in dialogues.items():
        rows = [
            (f"{text} {'again' if d % 2 else 'today'}", "A", emotion, d, u)
            for d in range(count)
            for u, (emotion, text) in enumerate(SAID.items())
        ]
        data = raw_data.meld_csv(rows)
        raw_data.put(folder / "MELD.Raw" / f"{name}_sent_emo.csv", data)


def put_daily(folder, dialogues: dict[str, int]) -> None:
    for name, count in dialogues.items():
        home = folder / "ijcnlp_dailydialog" / name
        turns = "".join(f"{SAID[emotion]} then __eou__ " for emotion in DAILY)
        raw_data.put(home / f"dialogues_{name}.txt", f"{turns}\n" * count)
        numbers = " ".join(map(str, range(7)))
        raw_data.put(home / f"dialogues_emotion_{name}.txt", f"{numbers} \n" * count)


@needs_sklearn
def test_numpy_gives_scikit_learns_probabilities(tmp_path):
    texts = [*SAID.values(), *(text.upper() + " OK" for text in SAID.values()), *ODD[2:]]
    emotion_N = np.array([EMOTION_ID[name] for name in SAID] * 2 + [0] * len(ODD[2:]))
    vectorizers = tool.make_vectorizers(50, 150)
    features = vectorizers.fit_transform(texts)
    model = tool.fit(features, emotion_N, np.ones(len(texts)))
    text_labeller.write(tmp_path / "x.npz", tool.exported(vectorizers, model))
    asked = [*texts, *ODD]
    expected = model.predict_proba(vectorizers.transform(asked))
    found = text_labeller.read(tmp_path / "x.npz").probabilities(asked)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(set(expected.argmax(1))) == 7


@needs_sklearn
def test_a_labeller_is_trained_measured_and_written(tmp_path, capsys):
    put_meld(tmp_path, {"train": 20, "dev": 2, "test": 3})
    put_daily(tmp_path, {"train": 20, "validation": 2})
    arguments = [f"--manual_dir={tmp_path}", f"--data_dir={tmp_path}", "--word_features=100"]
    arguments += [f"--out={tmp_path / 'x.npz'}", "--datasets=meld,daily_dialog"]
    assert tool.main(["", *arguments, "--character_features=200"]) == 0
    labeller = text_labeller.read(tmp_path / "x.npz")
    assert len(labeller.words) <= 100 and len(labeller.characters) <= 200
    said = list(SAID.values())
    assert [EMOTIONS[e] for e in labeller.labels(said)] == list(SAID)
    parts = {name: set(of) for name, of in labeller.held_out.items()}
    assert parts == {"meld": {"valid", "test"}, "daily_dialog": {"valid"}}
    assert labeller.held_out["meld"]["test"]["examples"] == 21
    assert '"weighted_f1": 1.0' in capsys.readouterr().out


def test_a_network_is_trained_on_other_splits(tmp_path, capsys):
    put_meld(tmp_path, {"train": 3, "dev": 30, "test": 2})
    arguments = [f"--manual_dir={tmp_path}", f"--data_dir={tmp_path}", "--datasets=meld"]
    arguments += ["--kind=network", "--train_splits=valid", f"--out={tmp_path / 'x.npz'}"]
    assert tool.main(["", *arguments]) == 0
    labeller = text_labeller.read(tmp_path / "x.npz")
    assert isinstance(labeller, text_labeller.Network)
    assert set(labeller.held_out["meld"]) == {"train", "test"}
    assert [EMOTIONS[e] for e in labeller.labels(list(SAID.values()))] == list(SAID)
    assert "epoch 1: loss" in capsys.readouterr().out
    assert tool.main(["", *arguments, "--seed=1"]) == 0
    other = text_labeller.read(tmp_path / "x.npz")
    assert np.abs(other.intercepts_C - labeller.intercepts_C).max() > 0


def test_numpy_gives_flaxs_logits():
    import jax

    words = ("so", "happy", "!")
    model = text_network.Convolutions(2 + len(words))
    texts = ["so", "Happy so sad!", "so happy happy ! !", "unheard"]
    ids = network.ids_of(words)
    id_NxL = np.zeros((len(texts), 8), np.int32)
    for row, text in zip(id_NxL, texts, strict=True):
        found = network.encode(text, ids)
        row[: len(found)] = found
    params = model.init(jax.random.key(0), id_NxL, train=False)["params"]
    # Biases begin at 0, which would hide one that is added to nothing.
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    expected = model.apply({"params": params}, id_NxL, train=False)
    found = text_network.exported(params, words)
    for text, logits_C in zip(texts, expected, strict=True):
        np.testing.assert_allclose(found.logits(text), logits_C, rtol=1e-4, atol=1e-4)


@needs_sklearn
def test_figures_are_scikit_learns(tmp_path):
    from sklearn import metrics

    rng = np.random.default_rng(0)
    truth, found = rng.integers(7, size=60), rng.integers(5, size=60)

    class Says:
        def labels(self, texts):
            return found

    part = tool.Texts(["x"] * 60, truth, truth, truth)
    got = tool.figures(Says(), part)
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(truth, found), abs=1e-4)
    for average in ("weighted", "macro"):
        expected = metrics.f1_score(truth, found, average=average)
        assert got[f"{average}_f1"] == pytest.approx(expected, abs=1e-4)


def test_every_dataset_counts_alike_and_with_a_balance_of_one_every_label():
    rng = np.random.default_rng(0)
    dataset_N = np.repeat([0, 1], [30, 300])
    emotion_N = np.minimum(rng.geometric(0.4, size=330) - 1, 6)
    for balance in (0.0, 0.5, 1.0):
        weight_N = tool.example_weights(emotion_N, dataset_N, balance)
        totals = [weight_N[dataset_N == d].sum() for d in (0, 1)]
        assert totals == pytest.approx([165, 165])
    large = dataset_N == 1
    totals = np.bincount(emotion_N[large], weight_N[large])
    assert totals == pytest.approx(np.full(len(totals), totals[0]))


def test_only_labelled_words_are_read(tmp_path):
    put_daily(tmp_path, {"train": 2, "validation": 1})
    home = tmp_path / "ijcnlp_dailydialog" / "train"
    emotions = "0 1 2 3 4 5 6 \n0 1 \n"  # too few of the second dialogue
    raw_data.put(home / "dialogues_emotion_train.txt", emotions)
    found = tool.read("daily_dialog", Options(str(tmp_path), str(tmp_path), "", 0.0))
    assert len(found["train"].texts) == 7 and UNKNOWN not in found["train"].emotion_N
    assert [found["train"].texts[0], found["train"].texts[6]] == [
        f"{SAID[name]} then" for name in ("neutral", "surprise")
    ]


def test_what_is_wrong_is_said(tmp_path, capsys, monkeypatch):
    for arguments, says in (
        (["--out=x.npz"], "--datasets is missing"),
        (["--datasets=meld", f"--out={tmp_path}/no/x.npz"], "no folder"),
        (["--datasets=meld", f"--out={tmp_path}"], "is not a file"),
    ):
        assert tool.main(["", *arguments]) == 2
        assert says in capsys.readouterr().err
    put_daily(tmp_path, {"train": 2, "validation": 1})
    arguments = [f"--manual_dir={tmp_path}", f"--data_dir={tmp_path}", f"--out={tmp_path}/x.npz"]
    for more, says in (
        ("--train_splits=dev", "none of train, valid, test"),
        ("--train_splits=test", "test of daily_dialog: no labelled words"),
        ("--word_features=0", "at least 1"),
    ):
        assert tool.main(["", *arguments, "--datasets=daily_dialog", more]) == 2
        assert says in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requirements-evidence\.txt"):
        of = tool.read("daily_dialog", Options(str(tmp_path), str(tmp_path), "", 0.0))["train"]
        tool.train_linear(of, tool.Settings("linear", ["daily_dialog"], ["train"], 0, 10, 10))
