"""A model without the parts that predict emotions: what is left out, and what stays the same."""

import jax
import numpy as np
import pytest
import small
import talking

from igerg_jax import metrics
from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN
from igerg_jax.cli import chat
from igerg_jax.evaluation import conversation, predictions, samples
from igerg_jax.models.igerg import EMOTION_PARTS

PREFIXES = {
    "emotion_head": "image_emotion",
    "sequence_emotion_head": "sequence_emotion",
    "judge_network": "judge",
}


@pytest.fixture(scope="module")
def measured():
    """{part that is missing, or "": (metrics of a batch, figures of its windows)}."""
    config = small.make_config(model__emotion_embedding="none")
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    count = jax.jit(lambda params: predictions.batch_counts(model, params, batch))
    found = {}
    for missing in ("", *EMOTION_PARTS.values()):
        counts, windows = count({name: x for name, x in params.items() if name != missing})
        values = metrics.of_counts(jax.tree.map(np.asarray, counts))
        found[missing] = {name: x for name, x in values.items() if not np.isnan(x)}, windows
    return found


@pytest.mark.parametrize("part", EMOTION_PARTS.values())
def test_only_the_figures_of_a_missing_part_are_missing(measured, part):
    (whole, whole_windows), (values, windows) = measured[""], measured[part]
    assert {name for name in whole if name.startswith(PREFIXES[part])} == whole.keys() - values
    assert values == {name: whole[name] for name in values}
    for name in ("image", "sequence", "judge"):
        is_its_own = name == PREFIXES[part].partition("_")[0]
        assert (np.asarray(windows[name])[..., 0] == UNKNOWN).all() == is_its_own
        if not is_its_own:
            np.testing.assert_array_equal(windows[name], whole_windows[name])


def test_what_is_not_predicted_is_not_seen():
    shares = np.full((2, NUM_EMOTIONS), 1 / NUM_EMOTIONS)
    mask = np.array([True, False])
    seen = samples.seen_in({"images": shares, "judge": shares[0]}, mask)
    assert seen == [samples.by_emotion(shares[0]), None]
    assert samples.seen_in({"judge": shares[0]}, mask) == [None, None]


def test_it_still_answers(drawn):
    kept = {n: x for n, x in drawn.params.items() if n not in EMOTION_PARTS.values()}
    responder = drawn._replace(params=kept).make_responder()
    face = talking.face(0)
    assert responder.see(face) is None
    answer = responder.respond([("a i q", None)], face)
    assert answer.seen[1] is None and answer.sequence is None and answer.judge is None
    assert chat.describe(answer, 1, None) == (answer.text or "(no words)")
    assert answer.score != responder.respond([("a i q", None)], face, "joy").score
    described = conversation.respond(responder, [("a i q", None)], face)
    assert described["missing"] is None and "judge" not in conversation.describe(described)
