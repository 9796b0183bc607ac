"""Standard errors: what they are for figures whose error is known, and what is drawn; and what is
kept of each window for comparisons of runs."""

import json
import math

import numpy as np
import pytest
from evaluated import EXAMPLES, FOLLOWING, GENERATED, World, make_config

from igerg_jax import metrics, prediction_metrics
from igerg_jax.batch import EMOTIONS, UNKNOWN
from igerg_jax.data import windows as windows_lib
from igerg_jax.evaluation import following, uncertainty
from igerg_jax.report import write_report


@pytest.fixture(scope="module")
def world(data_dir, tmp_path_factory):
    return World(make_config(data_dir), tmp_path_factory.mktemp("run"))


def test_the_error_of_a_share_is_that_of_independent_clusters():
    rng = np.random.default_rng(0)
    right_K = rng.random(300) < 0.7
    labels = np.zeros(300, int)
    pairs = np.stack([labels, np.where(right_K, 0, 1)], -1)
    alone = uncertainty.confusions(np.arange(300), pairs).reshape(300, -1)

    def accuracy(counts):
        return prediction_metrics.accuracy(counts.reshape(7, 7))

    expected = right_K.std() / math.sqrt(300)
    assert uncertainty.standard_error(alone, accuracy) == pytest.approx(expected, rel=0.1)
    # Nine more copies of each add nothing, as long as they lie in its cluster.
    ten_times = uncertainty.confusions(np.tile(np.arange(300), 10), np.tile(pairs, (10, 1)))
    found = uncertainty.standard_error(ten_times.reshape(300, -1), accuracy)
    assert found == pytest.approx(uncertainty.standard_error(alone, accuracy))
    split = uncertainty.confusions(np.arange(3000), np.tile(pairs, (10, 1))).reshape(3000, -1)
    assert uncertainty.standard_error(split, accuracy) < expected / 2.5
    assert math.isnan(uncertainty.standard_error(alone[:1], accuracy))


@pytest.mark.parametrize("clusters", [48, 100])
def test_two_standard_errors_to_both_sides_cover_the_truth(clusters):
    """Conversations of unequal length, in each of which answers are right more or less often."""
    rng = np.random.default_rng(0)
    size_ExK = rng.integers(1, 12, (2000, clusters))
    right_ExK = rng.binomial(size_ExK, rng.beta(4, 2, size_ExK.shape))
    truth, covered = 4 / 6, 0
    for counts_KxM in np.stack([right_ExK, size_ExK], -1):
        right, size = counts_KxM.sum(0)
        error = uncertainty.standard_error(counts_KxM, lambda m: m[0] / m[1])
        covered += abs(right / size - truth) < 1.96 * error
    assert 0.93 <= covered / len(size_ExK) <= 0.97


def test_what_has_no_label_is_in_no_cluster():
    cluster = np.array([[5, 5, 9], [9, 7, 7]])
    pairs = np.array([[[0, 0], [1, 0], [UNKNOWN, 3]], [[2, 2], [UNKNOWN, 0], [UNKNOWN, 1]]])
    counts = uncertainty.confusions(cluster, pairs)
    assert counts.shape == (2, 7, 7) and counts.sum() == 3  # 7 has none
    assert counts[0, 0, 0] == counts[0, 1, 0] == counts[1, 2, 2] == 1


def test_a_run_says_how_certain_its_figures_are_and_on_what_they_rest(world):
    split = world.prepared.split("test")
    values, sizes = world.out["evaluation"]["test"], world.out["sizes"]["test"]
    talks, faces = set(), set()
    for i in range(EXAMPLES):
        first, last = split.turn_range(i)
        turns = range(first, last + 1)
        talks.add(max(t for t in range(last + 1) if split.turns.turn_in_episode[t] == 0))
        read = windows_lib.read(split, i)
        pairs = zip(read.images, read.emotions, strict=True)
        faces |= {image for image, emotion in pairs if image >= 0 and emotion != UNKNOWN}
        assert len(turns) == len(read.images)
    assert sizes == {
        "windows": EXAMPLES,
        "conversations": len(talks),
        "faces": len(faces),
        "generated": GENERATED,
    }
    of_images = values["image_emotion_accuracy_standard_error"]
    assert 0 < of_images < 0.5
    end = metrics.STANDARD_ERROR
    errors = {name for name in values if name.endswith(end)}
    assert {name.removesuffix(end) for name in errors} <= values.keys()
    if len(talks) > 1:
        assert f"response_perplexity{end}" in errors


def test_the_matrix_of_responses_counts_the_generated_ones(world):
    matrix = np.array(world.out["response_matrix"]["test"])
    split = world.prepared.split("test")
    meant = split.turns.emotion[split.response_turn[:GENERATED]]
    expected = np.bincount(meant[meant != UNKNOWN], minlength=len(EMOTIONS))
    np.testing.assert_array_equal(matrix.sum(1), expected)
    accuracy = world.out["evaluation"]["test"]["response_emotion_accuracy"]
    assert prediction_metrics.accuracy(matrix) == pytest.approx(accuracy)


def test_every_figure_of_an_evaluation_has_a_name_in_the_report(world):
    (world.workdir / "summary.json").write_text(json.dumps(world.out))
    text = write_report(world.workdir).read_text("utf-8")
    assert ">Other</th>" not in text and "±" in text
    for metric in metrics.rows():
        if metric.name in world.out["evaluation"]["test"]:
            assert f'<th scope="row">{metric.title}' in text and metric.explanation


def test_what_is_kept_of_each_window_gives_the_figures(world):
    kept = json.loads((world.workdir / "windows.json").read_text())
    assert set(kept) == {"valid", "test", "test_style"}
    longest = world.setup.config.data.response_tokens
    for name, windows in kept.items():
        split, values = world.prepared.split(name), world.out["evaluation"][name]
        lengths = [len(split.turns.tokens(turn)) + 1 for turn in split.response_turn[:EXAMPLES]]
        response = windows["response"]
        assert response["tokens"] == np.minimum(lengths, longest).tolist()
        assert len(response["nll"]) == EXAMPLES and min(response["nll"]) > 0
        perplexity = math.exp(sum(response["nll"]) / sum(response["tokens"]))
        assert values["response_perplexity"] == pytest.approx(perplexity, rel=1e-5)
        if name not in world.out["following_matrix"]:  # no face of some emotion
            assert "following" not in windows and name != "test"
            continue
        said = np.array(windows["following"]["said"])
        assert values["emotion_following"] == (said == np.arange(7)).mean()
        chosen_W = following.plan(split, FOLLOWING).windows_W
        assert windows["following"]["index"] == chosen_W.tolist()
        turns, starts = split.response_turn, np.flatnonzero(split.turns.turn_in_episode == 0)
        talk_W = np.searchsorted(starts, turns, side="right")
        assert response["conversation"] == talk_W[:EXAMPLES].tolist()
        assert windows["following"]["conversation"] == talk_W[chosen_W].tolist()
    # One window alone has the likelihood that it has among others.
    split = world.prepared.split("test")
    ((_, batch, _),) = world.evaluator.inference.batches(split, np.array([5]))
    _, alone = world.evaluator.inference.batch_counts(world.params, batch)
    assert kept["test"]["response"]["nll"][5] == pytest.approx(float(alone["nll"][0]), rel=1e-4)
