"""Emotion following: does the response change with the face that is shown?

In some windows of a split, the responding turn's image is replaced by one of each emotion in turn,
taken from the same split; everything else stays the same. Letters as in `igerg_jax.batch`; W =
windows, R = responses.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from igerg_jax import lexicon, prediction_metrics
from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS, SpecialIds
from igerg_jax.data import store
from igerg_jax.data.images import data_url
from igerg_jax.data.order import evenly_spaced
from igerg_jax.data.windows import Split
from igerg_jax.evaluation import response_statistics, samples, uncertainty
from igerg_jax.models.igerg import response_image
from igerg_jax.text_labeller import TextLabeller

FILE = "following.jsonl"  # in a workdir
GALLERY_WINDOWS = 6  # lines of the file


class Plan(NamedTuple):
    """The windows to respond to and, for each and each emotion, the window that lends its response
    image."""

    windows_W: np.ndarray
    faces_WxC: np.ndarray  # window numbers


class Following(NamedTuple):
    """What an evaluation reports."""

    values: dict[str, float]
    matrix: list[list[int]]  # emotion shown (rows) and emotion in the words (columns)
    rows: list[dict[str, Any]]  # of `FILE`
    answers: Mapping[str, Any]  # a split's entry of `response_statistics.FILE`
    # Of each of these windows: "index" in the split, "conversation" as in `evaluator.Measured`, and
    # "said", the emotion ids that the lexicon finds in its responses, by the emotion shown; "said_"
    # and an ordinal: those that another labeller finds.
    windows: dict[str, list]


def plan(split: Split, count: int) -> Plan | None:
    """At most `count` windows, spread evenly over those whose response has an image.

    A window's faces depend only on its number; all different images of an emotion are equally
    likely.

    Returns:
      None if `count` is 0, or the split has no image of some emotion or no responses.
    """
    turns, last = split.turns, split.response_turn
    if split.standalone:
        return None
    shown = np.flatnonzero(turns.image[last] != store.NO_IMAGE)
    image, emotion = turns.image[last[shown]], turns.emotion[last[shown]]
    by_emotion = []
    for e in range(NUM_EMOTIONS):
        of_emotion = np.flatnonzero(emotion == e)
        by_emotion.append(shown[of_emotion[np.unique(image[of_emotion], return_index=True)[1]]])
    if not count or not all(map(len, by_emotion)):
        return None
    windows_W = shown[evenly_spaced(count, len(shown))]
    faces = []
    for window in windows_W:
        rng = np.random.default_rng(int(window))
        faces.append([rng.choice(of_emotion) for of_emotion in by_emotion])
    return Plan(windows_W, np.array(faces))


def with_faces(
    batch: Mapping[str, np.ndarray], faces: Mapping[str, np.ndarray], special: SpecialIds
) -> dict[str, np.ndarray]:
    """`batch` with the response's image of the same row of `faces` in place of its own."""
    name = "features" if "features" in batch else "images"
    images_BxN = np.array(batch[name])
    images_BxN[response_image(batch, special)] = faces[name][response_image(faces, special)]
    return {**batch, name: images_BxN}


def measure(
    chosen: Plan,
    split: Split,
    texts: Sequence[str],
    probabilities: Mapping[str, np.ndarray],
    image_mask_RxN: np.ndarray,
    cut_R: np.ndarray,
    labellers: Mapping[str, TextLabeller],
) -> Following:
    """The figures of R = W * C responses, and some windows for people to read.

    Args:
      texts: the responses, window by window, within a window by the emotion shown.
      probabilities: of the same rows, as `predictions.emotion_probabilities` names them.
      image_mask_RxN: bool, which images the model was given.
      cut_R: bool, which responses have the maximum length, so that they may be truncated.
      labellers: label the same responses, for the figures that have their ordinals in their names.
    """
    values, confusion, said = figures(texts, labellers)
    texts_WxC = np.array(texts, object).reshape(-1, NUM_EMOTIONS)
    rows = []
    for w in evenly_spaced(GALLERY_WINDOWS, len(texts_WxC)):
        at = slice(w * NUM_EMOTIONS, (w + 1) * NUM_EMOTIONS)
        of_window = {name: p[at] for name, p in probabilities.items()}
        rows.append(_row(chosen, split, w, texts_WxC[w], of_window, image_mask_RxN[at][0]))
    shown_R = np.tile(np.arange(NUM_EMOTIONS), len(texts_WxC))
    compared = response_statistics.compared(texts, shown_R, cut_R, split, len(texts_WxC))
    windows = {
        "index": chosen.windows_W.tolist(),
        "conversation": uncertainty.conversations(split)[chosen.windows_W].tolist(),
        **said,
    }
    return Following(values, confusion.tolist(), rows, compared, windows)


def figures(
    texts: Sequence[str], labellers: Mapping[str, TextLabeller]
) -> tuple[dict[str, float], np.ndarray, dict[str, list]]:
    """The figures of responses to W windows, by the lexicon and by each labeller.

    Args:
      texts: window by window, within a window by the emotion shown, or asked for.

    Returns:
      (values and confusion matrix as `following_metrics`, with the labellers' values too; the
      emotion ids found, as in `Following.windows`). One window has no standard error.
    """
    expressed_WxC = np.array([lexicon.label(text) for text in texts]).reshape(-1, NUM_EMOTIONS)
    texts_WxC = np.array(texts, object).reshape(expressed_WxC.shape)
    values, confusion = following_metrics(expressed_WxC, [len({*row}) for row in texts_WxC])
    said = {"said": expressed_WxC.tolist()}
    for ordinal, labeller in labellers.items():
        labels_WxC = labeller.labels(texts).reshape(expressed_WxC.shape)
        values |= _values_by(ordinal, labels_WxC)
        said[f"said_{ordinal}"] = labels_WxC.tolist()
    values = {name: value for name, value in values.items() if not math.isnan(value)}
    return values, confusion, said


def following_metrics(
    expressed_WxC: np.ndarray, different_W: Sequence[int]
) -> tuple[dict[str, float], np.ndarray]:
    """Metrics of responses to W windows, each shown with a face of every emotion in turn.

    Args:
      expressed_WxC: emotion ids found in the responses; column c was shown a face of emotion c.
      different_W: how many of a window's responses differ.

    Returns:
      ({"emotion_following": the share of responses with the emotion shown, "…_standard_error",
      "…_macro_f1", "…_distinct" and "…_chance"}, the confusion matrix: emotions shown in rows).
    """
    shown_WxC = np.broadcast_to(np.arange(NUM_EMOTIONS), expressed_WxC.shape)
    share_W = (expressed_WxC == shown_WxC).mean(axis=1)
    confusion = prediction_metrics.confusion_matrix(shown_WxC, expressed_WxC)
    name = "emotion_following"
    return {
        name: prediction_metrics.accuracy(confusion),
        f"{name}_standard_error": uncertainty.standard_error(share_W[:, None], np.sum)
        / len(share_W),
        f"{name}_macro_f1": prediction_metrics.macro_f1(confusion),
        f"{name}_distinct": float(np.mean(different_W)),
        f"{name}_chance": 1 / NUM_EMOTIONS,
    }, confusion


def _values_by(ordinal: str, expressed_WxC: np.ndarray) -> dict[str, float]:
    """The figures of a labeller other than the lexicon."""
    values, _ = following_metrics(expressed_WxC, np.ones(len(expressed_WxC)))
    name, ends = "emotion_following", ("", "_standard_error", "_macro_f1")
    return {f"{name}_{ordinal}{end}": values[f"{name}{end}"] for end in ends}


def _row(
    chosen: Plan,
    split: Split,
    w: int,
    texts_C: Sequence[str],
    probabilities: Mapping[str, np.ndarray],
    image_mask_N: np.ndarray,
) -> dict[str, Any]:
    """One line of `FILE`: a window's turns, and its response to each of the faces."""
    window = split.window(int(chosen.windows_W[w]))
    slot = len(window.turn_texts)
    seen = [
        samples.seen_in({name: p[i] for name, p in probabilities.items()}, image_mask_N)
        for i in range(NUM_EMOTIONS)
    ]
    responses = []
    for emotion, text in enumerate(texts_C):
        face = split.window(int(chosen.faces_WxC[w, emotion])).response_image
        responses.append(
            {
                "emotion": EMOTIONS[emotion],
                "image": data_url(face, "jpeg"),
                "seen": seen[emotion][slot],
                "generated": text,
                "spoken_emotion": EMOTIONS[lexicon.label(text)],
            }
        )
    return {
        "index": int(chosen.windows_W[w]),
        "context": samples.context(window, seen[0]),  # others differ in the response's image
        "reference": window.response_text,
        "reference_emotion": samples.emotion_name(window.response_emotion),
        "responses": responses,
    }
