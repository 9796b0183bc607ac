"""Trains the second labeller of responses, which `igerg_jax.text_labeller` describes.

    python -m igerg_jax.tools.train_text_labeller --datasets=meld,daily_dialog --manual_dir=DIR \\
        --out=FILE.npz

The datasets are named as in config.data.dataset, and DIR is as config.data.manual_dir; their turns
must have words and labels by people. It prints, and keeps in the file, the labeller's metrics on
each dataset's valid and test splits. Evaluation reads the file with
--config.evaluate.text_labeller=FILE.npz. Needs scikit-learn: pip install 'igerg_jax[evidence]'.
Exit codes: 0; 2 = a mistake in the command or its files, named in one message.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from igerg_jax import metrics, text_labeller
from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS, UNKNOWN
from igerg_jax.data import builders
from igerg_jax.data.builders.source import Options, Turns
from igerg_jax.errors import UserError
from igerg_jax.run import command_line
from igerg_jax.text_labeller import TextLabeller

# Exponents that are tried in example weights, (examples / examples of the label) ** exponent.
BALANCES = (0.0, 0.25, 0.5, 0.75, 1.0)
HELD_OUT = 10  # one in so many dialogues of each train split serves to choose the exponent
INVERSE_REGULARIZATION = 1.0  # scikit-learn's C
ITERATIONS = 300
MEASURED = ("valid", "test")


class Texts(NamedTuple):
    """The labelled texts of a split of a dataset."""

    texts: list[str]
    emotion_N: np.ndarray
    episode_N: np.ndarray


def train(
    datasets: Sequence[str], options: Options, word_features: int, character_features: int
) -> TextLabeller:
    """A labeller fitted on the datasets' train splits, with equal weights, and then measured.

    The weight of rare labels is chosen on dialogues held out from the train splits, by macro-F1
    averaged over the datasets; the labeller is then fitted on the full train splits.

    Args:
      word_features, character_features: numbers of n-grams kept, the most frequent ones.

    Raises:
      UserError: scikit-learn or data are missing, or an emotion has no text.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("this needs scikit-learn: pip install -r requirements-evidence.txt")
    parts = {name: read(name, options) for name in datasets}
    texts = [text for of in parts.values() for text in of["train"].texts]
    emotion_N = np.concatenate([of["train"].emotion_N for of in parts.values()])
    sizes = [len(of["train"].texts) for of in parts.values()]
    dataset_N = np.repeat(np.arange(len(sizes)), sizes)
    episode_N = np.concatenate([of["train"].episode_N for of in parts.values()])
    absent = set(range(NUM_EMOTIONS)) - set(emotion_N.tolist())
    if absent:
        names = ", ".join(EMOTIONS[e] for e in sorted(absent))
        raise UserError(f"the train splits of {', '.join(datasets)} have no text of {names}")
    vectorizers = make_vectorizers(word_features, character_features)
    features = vectorizers.fit_transform(texts).astype(np.float32)
    kept_N = episode_N % HELD_OUT > 0
    scores = [
        _score(features, emotion_N, dataset_N, kept_N, balance) if not kept_N.all() else 0.0
        for balance in BALANCES
    ]
    balance = BALANCES[int(np.argmax(scores))]
    print(f"macro-F1 by balance of labels: {dict(zip(BALANCES, scores, strict=True))}")
    model = fit(features, emotion_N, example_weights(emotion_N, dataset_N, balance))
    labeller = exported(vectorizers, model, {})
    held_out = {
        name: {part: measure(labeller, of[part]) for part in MEASURED if part in of}
        for name, of in parts.items()
    }
    return exported(vectorizers, model, held_out)


def read(dataset: str, options: Options) -> dict[str, Texts]:
    """{split: labelled texts} of a dataset. Raises UserError for one without labelled words."""
    parts = {name: _labelled(turns) for name, turns in builders.splits(dataset, options).items()}
    if "train" not in parts or not parts["train"].texts:
        raise UserError(f"'{dataset}' has no train split with labelled words; leave it out")
    return {name: part for name, part in parts.items() if part.texts}


def _labelled(turns: Turns) -> Texts:
    rows = (turns.row(i) for i in range(len(turns)))
    rows = [row for row in rows if row["emotion"] != UNKNOWN and row["text"].strip()]
    emotion_N, episode_N = (
        np.array([r[key] for r in rows], np.int64) for key in ("emotion", "episode")
    )
    return Texts([row["text"] for row in rows], emotion_N, episode_N)


def make_vectorizers(word_features: int, character_features: int) -> Any:
    """scikit-learn's union of two TF-IDF vectorizers, of words and of characters; not fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # an extra: `train` checks it
    from sklearn.pipeline import make_union

    common = dict(sublinear_tf=True, min_df=2)
    return make_union(
        TfidfVectorizer(
            ngram_range=text_labeller.WORD_NGRAMS,
            token_pattern=text_labeller.WORD_PATTERN,
            max_features=word_features,
            **common,
        ),
        TfidfVectorizer(
            analyzer="char_wb",
            ngram_range=text_labeller.CHARACTER_NGRAMS,
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


def _score(features: Any, emotion_N, dataset_N, kept_N, balance: float) -> float:
    """Macro-F1 of a fit to the kept examples on the others, averaged over the datasets."""
    weight_N = example_weights(emotion_N[kept_N], dataset_N[kept_N], balance)
    model = fit(features[kept_N], emotion_N[kept_N], weight_N)
    scores = []
    for dataset in np.unique(dataset_N[~kept_N]):
        at = ~kept_N & (dataset_N == dataset)
        confusion = metrics.confusion_matrix(emotion_N[at], model.predict(features[at]))
        scores.append(metrics.macro_f1(confusion))
    return round(float(np.mean(scores)), 4)


def exported(vectorizers: Any, model: Any, held_out: Mapping[str, Any]) -> TextLabeller:
    """The fitted vectorizers and model as the arrays of a `TextLabeller`."""
    words, characters = (vectorizer for _, vectorizer in vectorizers.transformer_list)
    return TextLabeller(
        words=tuple(words.get_feature_names_out().tolist()),
        characters=tuple(characters.get_feature_names_out().tolist()),
        idf_F=np.concatenate([words.idf_, characters.idf_]).astype(np.float32),
        coefficients_FxC=np.ascontiguousarray(model.coef_.T, np.float32),
        intercepts_C=model.intercept_.astype(np.float32),
        held_out=held_out,
    )


def measure(labeller: TextLabeller, part: Texts) -> dict[str, float]:
    """Metrics of a labeller on labelled texts."""
    from sklearn.metrics import f1_score

    predicted_N = labeller.labels(part.texts)
    confusion = metrics.confusion_matrix(part.emotion_N, predicted_N)
    return {
        "examples": len(part.texts),
        "accuracy": round(metrics.accuracy(confusion), 4),
        "weighted_f1": round(float(f1_score(part.emotion_N, predicted_N, average="weighted")), 4),
        "macro_f1": round(metrics.macro_f1(confusion), 4),
        "majority_rate": round(metrics.majority_rate(confusion), 4),
    }


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    values = command_line.parse(argv, _flags)
    command_line.require(values, "datasets", "out")
    out = pathlib.Path(values.out).expanduser()
    if not out.parent.is_dir():
        raise UserError(f"--out={values.out}: there is no folder '{out.parent}'")
    features = values.word_features, values.character_features
    if min(features) < 1:
        raise UserError("--word_features and --character_features must be at least 1")
    options = Options(values.data_dir, values.manual_dir, labels_path="", min_confidence=0.0)
    labeller = train([name.strip() for name in values.datasets], options, *features)
    text_labeller.write(out, labeller)
    print(json.dumps(labeller.held_out, indent=1))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {len(labeller.idf_F):,} n-grams")


def _flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    flags.DEFINE_list("datasets", [], "Names, separated by commas.", flag_values=values)
    define("manual_dir", help="Folder of the files that you downloaded.")
    define("out", help="File to write, .npz.")
    flags.DEFINE_string(
        "data_dir", "~/.cache/igerg_jax", "Folder for what TFDS downloads.", flag_values=values
    )
    counts = functools.partial(flags.DEFINE_integer, flag_values=values)
    counts("word_features", 30_000, "Word n-grams to keep.")
    counts("character_features", 60_000, "Character n-grams to keep.")
    return values


main = functools.partial(command_line.main, doc=__doc__, define_flags=_flags, run=run)

if __name__ == "__main__":
    sys.exit(main(sys.argv))
