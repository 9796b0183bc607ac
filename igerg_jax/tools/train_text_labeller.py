"""Trains a labeller of responses: `igerg_jax.text_labeller` says what there is.

    python -m igerg_jax.tools.train_text_labeller --datasets=meld,daily_dialog --manual_dir=DIR \\
        --out=FILE.npz [--kind=network] [--train_splits=valid] [--seed=1]

The datasets are named as in config.data.dataset, and DIR is as config.data.manual_dir; their turns
must have words and labels that people gave. It prints, and keeps in the file, how well it does on
each dataset's splits that it was not trained on. Evaluation reads the file, or two of them, with
--config.evaluate.text_labeller=FILE.npz,FILE.npz. --kind=linear, the default, needs scikit-learn:
pip install 'igerg_jax[evidence]'.
Exit codes: 0; 2 = a mistake in the command or its files, named in one message.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from igerg_jax import environment, prediction_metrics, text_labeller
from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS, UNKNOWN
from igerg_jax.data import builders
from igerg_jax.data.builders.source import Options, Turns
from igerg_jax.errors import UserError
from igerg_jax.run import command_line
from igerg_jax.text_labeller import Linear, TextLabeller, linear, reading
from igerg_jax.tools import text_network

# Exponents that are tried in example weights, (examples / examples of the label) ** exponent.
BALANCES = (0.0, 0.25, 0.5, 0.75, 1.0)
HELD_OUT = 10  # to choose among them, one dialogue of this many of each split that is trained on
INVERSE_REGULARIZATION = 1.0  # scikit-learn's C
ITERATIONS = 300
NETWORK_BALANCE = 0.5  # of a network, for which trying several would take long
KINDS = ("linear", "network")
SPLITS = ("train", "valid", "test")


class Texts(NamedTuple):
    """Labelled texts, and what each is of."""

    texts: list[str]
    emotion_N: np.ndarray
    episode_N: np.ndarray
    dataset_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a labeller: what it is trained on, and how.

    Attributes:
      datasets: their names.
      train_splits: of each of them; the others are what it is measured on.
      seed: chooses the dialogues that are left out and, of a network, how it starts.
      word_features, character_features: n-grams that get an entry, the commonest ones.
    """

    kind: str
    datasets: Sequence[str]
    train_splits: Sequence[str]
    seed: int
    word_features: int
    character_features: int


def train(settings: Settings, options: Options) -> TextLabeller:
    """A labeller of the datasets' `train_splits`, each dataset counted alike, measured on the
    others.

    Raises:
      UserError: scikit-learn or data are missing, or an emotion has no text.
    """
    parts = {name: read(name, options) for name in settings.datasets}
    of = _together(list(parts.values()), settings)
    make = {"linear": train_linear, "network": train_network}[settings.kind]
    labeller = make(of, settings)
    held_out = {
        name: {
            split: figures(labeller, part)
            for split, part in of_dataset.items()
            if split not in settings.train_splits
        }
        for name, of_dataset in parts.items()
    }
    return dataclasses.replace(labeller, held_out=held_out)


def _together(parts: Sequence[dict[str, Texts]], settings: Settings) -> Texts:
    """The `train_splits` of all datasets. Raises UserError where they lack an emotion."""
    chosen = [
        of_dataset[split]._replace(dataset_N=np.full(len(of_dataset[split].texts), number))
        for number, of_dataset in enumerate(parts)
        for split in settings.train_splits
        if split in of_dataset
    ]
    places = f"{', '.join(settings.train_splits)} of {', '.join(settings.datasets)}"
    if not chosen:
        raise UserError(f"{places}: no labelled words")
    arrays = [np.concatenate([part[field] for part in chosen]) for field in (1, 2, 3)]
    of = Texts([text for part in chosen for text in part.texts], *arrays)
    absent = set(range(NUM_EMOTIONS)) - set(of.emotion_N.tolist())
    if absent:
        names = ", ".join(EMOTIONS[e] for e in sorted(absent))
        raise UserError(f"{places}: no text of {names}")
    return of


def train_linear(of: Texts, settings: Settings) -> Linear:
    """How far rare labels count more is chosen on dialogues that are left out, by the macro-F1,
    averaged over the datasets; then all of the texts are used."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("this needs scikit-learn: pip install -r requirements-evidence.txt")
    vectorizers = make_vectorizers(settings.word_features, settings.character_features)
    features = vectorizers.fit_transform(of.texts).astype(np.float32)
    kept_N = kept(of, settings.seed)
    scores = [_score(features, of, kept_N, b) if not kept_N.all() else 0.0 for b in BALANCES]
    balance = BALANCES[int(np.argmax(scores))]
    print(f"macro-F1 by balance of labels: {dict(zip(BALANCES, scores, strict=True))}")
    weight_N = example_weights(of.emotion_N, of.dataset_N, balance)
    return exported(vectorizers, fit(features, of.emotion_N, weight_N))


def train_network(of: Texts, settings: Settings) -> TextLabeller:
    """Left-out dialogues choose the epoch to stop after, by the macro-F1, averaged over the
    datasets."""
    kept_N = kept(of, settings.seed)
    weight_N = np.where(kept_N, example_weights(of.emotion_N, of.dataset_N, NETWORK_BALANCE), 0)

    def score(found: TextLabeller) -> float:
        texts = [of.texts[i] for i in np.flatnonzero(~kept_N)]
        return macro_f1(of.emotion_N[~kept_N], found.labels(texts), of.dataset_N[~kept_N])

    return text_network.train(
        of.texts, of.emotion_N, weight_N, score, settings.word_features, settings.seed
    )


def kept(of: Texts, seed: int) -> np.ndarray:
    """bool [N]: what is not left out. The seed says which dialogue of `HELD_OUT` is."""
    return (of.episode_N + seed) % HELD_OUT > 0


def read(dataset: str, options: Options) -> dict[str, Texts]:
    """{split: labelled texts} of a dataset. Raises UserError for one without labelled words."""
    parts = {name: _labelled(turns) for name, turns in builders.splits(dataset, options).items()}
    parts = {name: part for name, part in parts.items() if part.texts}
    if not parts:
        raise UserError(f"'{dataset}' has no labelled words; leave it out")
    return parts


def _labelled(turns: Turns) -> Texts:
    rows = (turns.row(i) for i in range(len(turns)))
    rows = [row for row in rows if row["emotion"] != UNKNOWN and row["text"].strip()]
    emotion_N, episode_N = (
        np.array([r[key] for r in rows], np.int64) for key in ("emotion", "episode")
    )
    return Texts([row["text"] for row in rows], emotion_N, episode_N, np.zeros(len(rows), int))


def make_vectorizers(word_features: int, character_features: int) -> Any:
    """scikit-learn's union of two TF-IDF vectorizers, of words and of characters; not fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # an extra: `train` checks it
    from sklearn.pipeline import make_union

    common = dict(sublinear_tf=True, min_df=2)
    return make_union(
        TfidfVectorizer(
            ngram_range=linear.WORD_NGRAMS,
            token_pattern=reading.WORD_PATTERN,
            max_features=word_features,
            **common,
        ),
        TfidfVectorizer(
            analyzer="char_wb",
            ngram_range=linear.CHARACTER_NGRAMS,
            max_features=character_features,
            **common,
        ),
    )


def example_weights(emotion_N: np.ndarray, dataset_N: np.ndarray, balance: float) -> np.ndarray:
    """float64 [N]: the weight of a label that n of a dataset's N texts have is (N / n) ** balance.

    They are scaled so that every dataset has the same total, and the mean is 1.
    """
    weight_N = np.zeros(len(emotion_N))
    for dataset in np.unique(dataset_N):
        at = dataset_N == dataset
        counts_C = np.bincount(emotion_N[at], minlength=NUM_EMOTIONS)
        weight_C = (at.sum() / np.maximum(counts_C, 1)) ** balance
        weight_N[at] = weight_C[emotion_N[at]]
        weight_N[at] /= weight_N[at].sum()
    return weight_N * len(weight_N) / weight_N.sum()


def fit(features: Any, emotion_N: np.ndarray, weight_N: np.ndarray) -> Any:
    """scikit-learn's logistic regression, fitted."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=ITERATIONS, tol=1e-3)
    return model.fit(features, emotion_N, sample_weight=weight_N)


def _score(features: Any, of: Texts, kept_N: np.ndarray, balance: float) -> float:
    """`macro_f1` on what is not kept, of a fit to what is."""
    weight_N = example_weights(of.emotion_N[kept_N], of.dataset_N[kept_N], balance)
    model = fit(features[kept_N], of.emotion_N[kept_N], weight_N)
    predicted_N = model.predict(features[~kept_N])
    return round(macro_f1(of.emotion_N[~kept_N], predicted_N, of.dataset_N[~kept_N]), 4)


def macro_f1(emotion_N: np.ndarray, predicted_N: np.ndarray, dataset_N: np.ndarray) -> float:
    """Averaged over the datasets."""
    confusions = (
        prediction_metrics.confusion_matrix(emotion_N[at], predicted_N[at])
        for at in (dataset_N == dataset for dataset in np.unique(dataset_N))
    )
    return float(np.mean([prediction_metrics.macro_f1(confusion) for confusion in confusions]))


def exported(vectorizers: Any, model: Any) -> Linear:
    """What was fitted, as arrays."""
    words, characters = (vectorizer for _, vectorizer in vectorizers.transformer_list)
    return Linear(
        words=tuple(words.get_feature_names_out().tolist()),
        characters=tuple(characters.get_feature_names_out().tolist()),
        idf_F=np.concatenate([words.idf_, characters.idf_]).astype(np.float32),
        coefficients_FxC=np.ascontiguousarray(model.coef_.T, np.float32),
        intercepts_C=model.intercept_.astype(np.float32),
        held_out={},
    )


def figures(labeller: TextLabeller, part: Texts) -> dict[str, float]:
    """How well a labeller does on labelled texts."""
    predicted_N = labeller.labels(part.texts)
    confusion = prediction_metrics.confusion_matrix(part.emotion_N, predicted_N)
    f1_C = np.nan_to_num([f1 for _, _, f1 in prediction_metrics.precision_recall_f1(confusion)])
    return {
        "examples": len(part.texts),
        "accuracy": round(prediction_metrics.accuracy(confusion), 4),
        "weighted_f1": round(float(f1_C @ confusion.sum(1) / confusion.sum()), 4),
        "macro_f1": round(prediction_metrics.macro_f1(confusion), 4),
        "majority_rate": round(prediction_metrics.majority_rate(confusion), 4),
    }


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    values = command_line.parse(argv, _flags)
    command_line.require(values, "datasets", "out")
    out = command_line.new_file("out", values.out)
    settings = Settings(
        kind=values.kind,
        datasets=[name.strip() for name in values.datasets],
        train_splits=[name.strip() for name in values.train_splits],
        seed=values.seed,
        word_features=values.word_features,
        character_features=values.character_features,
    )
    if min(settings.word_features, settings.character_features) < 1:
        raise UserError("--word_features and --character_features must be at least 1")
    if unknown := set(settings.train_splits) - set(SPLITS):
        raise UserError(f"--train_splits={unknown.pop()} is none of {', '.join(SPLITS)}")
    options = Options(values.data_dir, values.manual_dir, labels_path="", min_confidence=0.0)
    labeller = train(settings, options)
    text_labeller.write(out, labeller)
    print(json.dumps(labeller.held_out, indent=1))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {labeller.kind}")


def _flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    flags.DEFINE_list("datasets", [], "Names, separated by commas.", flag_values=values)
    define("manual_dir", help="Folder of the files that you downloaded.")
    define("out", help="File to write, .npz.")
    flags.DEFINE_string(
        "data_dir", "~/.cache/igerg_jax", "Folder for what TFDS downloads.", flag_values=values
    )
    flags.DEFINE_enum("kind", "linear", KINDS, "What to train.", flag_values=values)
    flags.DEFINE_list(
        "train_splits", ["train"], "Of every dataset; the others measure it.", flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Another seed is another labeller.", flag_values=values)
    counts = functools.partial(flags.DEFINE_integer, flag_values=values)
    counts("word_features", 30_000, "Runs of words, or a network's words, that get an entry.")
    counts("character_features", 60_000, "Runs of characters that get an entry; linear.")
    return values


main = functools.partial(command_line.main, doc=__doc__, define_flags=_flags, run=run)

if __name__ == "__main__":
    environment.run(main)
