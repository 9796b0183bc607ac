"""The evaluation of a split against the objectives, the data set and one-off answers."""

import base64
import copy
import dataclasses
import functools
import io
import json
import math
import re

import batches_of
import contributing
import jax
import numpy as np
import pytest
import small
from evaluated import EXAMPLES, FOLLOWING, GENERATED, SAMPLES, World, make_config, slow_unigram
from PIL import Image

from igerg_jax import batch as batch_lib
from igerg_jax import lexicon, metrics
from igerg_jax.batch import EMOTIONS
from igerg_jax.decoding.search import Responses
from igerg_jax.errors import UserError
from igerg_jax.evaluation import conversation, following
from igerg_jax.evaluation.evaluator import Evaluator
from igerg_jax.evaluation.responder import Responder
from igerg_jax.models import igerg
from igerg_jax.objectives import combination
from igerg_jax.parallel import sharding


@pytest.fixture(scope="module")
def world(data_dir, tmp_path_factory):
    """Its metrics include the one of predictions that CONTRIBUTING.md adds."""
    _, row = contributing.metric_rows()
    heading = "Response predicted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(metrics.GROUPS, heading, (*metrics.GROUPS[heading], row))
        yield World(make_config(data_dir), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def responder(world) -> Responder:
    """Talks with the model of `world`."""
    return Responder(world.setup, world.prepared.tokenizer, world.params)


def test_scores_are_the_objectives_own(world):
    """One unpadded example at a time through the training objectives gives the same figures."""
    model, config = world.setup.model, world.setup.config.copy_and_resolve_references()
    config.evaluate.batch_size = 1
    params, key = jax.device_put(jax.device_get(world.params)), jax.random.key(0)
    names = ("image_emotion", "sequence_emotion", "text_emotion", "emotional_response")
    # Conditioned as in evaluation: on the emotion that is seen in the response's image.
    config.objectives.emotional_response.update(
        consistency_weight=0.0, emotion_source="predicted", face_dropout=0.0, contrast_weight=0.0
    )
    small.only(config, *names)
    sums = jax.jit(lambda batch: combination.sums(config, model, params, batch, key, 0))
    found = {name: np.zeros(3) for name in names}  # loss sum, count, correct
    for batch, _ in batches_of.first_windows(
        world.prepared, "valid", config, np.arange(config.evaluate.batch_size)
    ):
        terms, measured = jax.device_get(sums(batch))
        corrects = {name: correct for (name, _), (correct, _) in measured.items()}
        for (name, _), term in terms.items():
            found[name] += np.array([term.loss_sum, term.count, corrects[name]])
    got = world.out["evaluation"]["valid"]
    ours = {"judge": "text_emotion"} | {name: name for name in names[:2]}
    for name, objective in ours.items():
        _, count, correct = found[objective]
        assert got[f"{name}_accuracy"] == pytest.approx(correct / count), name
    loss, count, guessed = found["emotional_response"]
    assert got["guessed"] == pytest.approx(guessed / count), "CONTRIBUTING.md's metric"
    assert got["response_perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-4)
    assert got["unigram_perplexity"] == pytest.approx(slow_unigram(world, "valid"))
    confusion = np.array(world.out["confusion_matrix"]["valid"])
    assert confusion.sum() == found["image_emotion"][1]


def test_what_was_compiled_in_advance_is_not_compiled_again(world, caplog):
    evaluator = Evaluator(world.setup, world.prepared)
    compilations = "XLA compilation of jit(_call)"
    with jax.log_compiles(), caplog.at_level("WARNING"):
        evaluator.compile(world.setup.abstract_params, "valid")
        assert caplog.text.count(compilations) == 2
        evaluator.metrics(world.params, "test", generate=True)
    assert caplog.text.count(compilations) == 2


def test_extra_test_splits_are_evaluated_like_the_test_split(world):
    for part in ("evaluation", "confusion_matrix"):
        assert set(world.out[part]) == {"valid", "test", "test_style"}
    assert world.out["labels"] == {"chitchat_peeps/tiny": "word list"}
    test, style = (world.out["evaluation"][name] for name in ("test", "test_style"))
    assert style.keys() == test.keys()
    # The same conversations with other faces: the judge reads the words alone.
    assert style["judge_accuracy"] == test["judge_accuracy"]
    assert style["image_emotion_accuracy"] != test["image_emotion_accuracy"]


def test_labels_of_the_confusion_matrix_are_the_data_sets(world):
    split = world.prepared.split("test")
    labels = []
    for i in range(EXAMPLES):
        window = split.window(i)
        labels += [*window.turn_emotions, window.response_emotion]
    found = np.array(world.out["confusion_matrix"]["test"])
    np.testing.assert_array_equal(found.sum(1), np.bincount(labels, minlength=len(EMOTIONS)))
    rate = world.out["evaluation"]["test"]["image_emotion_majority_rate"]
    assert rate == pytest.approx(np.bincount(labels).max() / len(labels))


def test_generated_texts_meet_their_own_references(world, monkeypatch):
    """A model that knows every answer scores as high as its answers' length allows."""

    def knows(params, batch, rng, rows_B, target_emotion_BxC):
        return Responses(batch["response"], None, None)

    monkeypatch.setattr(world.evaluator.inference, "_respond", knows)
    got = world.evaluator.metrics(world.params, "test", generate=True).values
    split, tokenizer = world.prepared.split("test"), world.prepared.tokenizer
    windows = [split.window(i) for i in range(GENERATED)]
    kept = world.setup.config.data.response_tokens - 1
    texts = [tokenizer.decode(tokenizer.encode(w.response_text)[:kept]) for w in windows]
    expected = metrics.of_texts(texts, [w.response_text for w in windows])
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    assert got["rouge_1"] > 50
    right = np.mean(
        [lexicon.label(t) == w.response_emotion for t, w in zip(texts, windows, strict=True)]
    )
    assert got["response_emotion_accuracy"] == pytest.approx(right)
    words = [len(w.response_text.split()) for w in windows]
    assert got["reference_mean_words"] == pytest.approx(np.mean(words))


def test_without_generation_nothing_is_generated(world, monkeypatch):
    monkeypatch.setattr(world.evaluator.inference, "_respond", None)
    got = world.evaluator.metrics(world.params, "valid", generate=False).values
    assert set(got) == set(metrics.measured_in_training()), "what evaluate.best_metric may name"
    whole = world.out["evaluation"]["valid"]
    assert got == {name: whole[name] for name in got} and "bleu_1" in whole


def test_samples_are_spread_over_the_split_and_follow_the_schema(world):
    split = world.prepared.split("test")
    numbers = [row["index"] for row in world.samples]
    assert len(numbers) == SAMPLES and len(set(numbers)) == SAMPLES
    assert max(np.diff([*numbers, split.num_windows])) <= split.num_windows / SAMPLES + 1
    for row in world.samples:
        window = split.window(row["index"])
        assert set(row) == {
            "index", "context", "response_image", "reference", "reference_emotion", "generated",
            "spoken_emotion", "judge",
        }  # fmt: skip
        assert [turn["text"] for turn in row["context"]] == list(window.turn_texts)
        assert row["reference"] == window.response_text
        assert row["reference_emotion"] == EMOTIONS[window.response_emotion]
        assert row["spoken_emotion"] == EMOTIONS[lexicon.label(row["generated"])]
        assert sum(row["judge"].values()) == pytest.approx(1, abs=1e-3)
        images = (*window.turn_images, window.response_image)
        for turn, jpeg in zip([*row["context"], row["response_image"]], images, strict=True):
            kind, data = turn["image"].split(",")
            assert kind == "data:image/jpeg;base64" and base64.b64decode(data) == jpeg
            assert Image.open(io.BytesIO(jpeg)).format == "JPEG"
            assert tuple(turn["seen"]) == EMOTIONS
            assert sum(turn["seen"].values()) == pytest.approx(1, abs=1e-3)
        assert all(turn["has_image"] for turn in row["context"])


def test_samples_are_the_same_every_time(world):
    assert world.evaluator.samples(world.params, "test", SAMPLES) == world.samples


def test_one_answer_is_the_samples_answer(world, responder, tmp_path):
    """The same words and faces, given by hand, are seen and answered as in the split."""
    full = world.setup.config.data.context_turns
    row = next(row for row in world.samples if len(row["context"]) == full)
    window = world.prepared.split("test").window(row["index"])
    files = []
    for i, jpeg in enumerate((*window.turn_images, window.response_image)):
        files.append(tmp_path / f"{i}.jpg")
        files[-1].write_bytes(jpeg)
    turns = [("this is too long ago to be read", None)]
    turns += list(zip(window.turn_texts, files[:-1], strict=True))
    got = conversation.respond(responder, turns, files[-1])
    assert got["response"] == row["generated"]
    assert [turn["text"] for turn in got["context"]] == list(window.turn_texts)
    seen = [turn["seen"] for turn in (*got["context"], got["response_image"])]
    expected = [turn["seen"] for turn in (*row["context"], row["response_image"])]
    for ours, theirs in zip(seen, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)
    assert got["judge"] == pytest.approx(row["judge"], abs=2e-3)
    assert got["spoken_emotion"] == row["spoken_emotion"] and got["missing"] is None


def test_an_answer_with_a_named_emotion(responder):
    """It is said which, and what is decoded is that of a batch conditioned on it."""
    turns = [("Hello there!", None)]
    answer = functools.partial(conversation.respond, responder, turns, None)
    conditioned = {emotion: answer(emotion) for emotion in ("joy", "fear")}
    assert answer()["target_emotion"] is None
    assert len({a["score"] for a in (*conditioned.values(), answer())}) == 3
    for emotion, given in conditioned.items():
        assert given["target_emotion"] == emotion and given["missing"] is None
        assert f"the emotion to respond with: {emotion}" in conversation.describe(given)


def test_one_answer_without_any_image(responder):
    got = conversation.respond(responder, [("Hello there!", None)], None)
    assert got["context"] == [{"text": "Hello there!", "seen": None}]
    assert got["response_image"] is None and got["sequence_emotion"] is None
    assert "no face given; show it as one more --image" in conversation.describe(got)
    with pytest.raises(UserError, match="context"):
        conversation.respond(responder, [], None)


def test_what_cannot_be_measured_is_left_out(world, data_dir, monkeypatch):
    """Without images there is no image emotion: no metric, no matrix, and nothing is NaN."""
    config = make_config(data_dir, data__use_images=False)
    evaluator = world.evaluator  # with what it compiled: the shapes are the same
    setup = dataclasses.replace(world.setup, config=config)
    monkeypatch.setattr(evaluator.inference, "setup", setup)
    got, confusion, sizes, _ = evaluator.metrics(world.params, "valid", generate=False)
    assert confusion == {} and sizes["faces"] == 0 and not any("emotion" in name for name in got)
    assert got["response_perplexity"] > 1 and all(map(math.isfinite, got.values()))
    (row,) = evaluator.samples(world.params, "test", 1)
    assert all(turn["seen"] is None and turn["image"] for turn in row["context"])


# The same words, seven faces.


def test_following_shows_a_face_of_each_emotion_and_keeps_everything_else(world):
    split = world.prepared.split("test")
    chosen = following.plan(split, FOLLOWING)
    assert len(chosen.windows_W) == FOLLOWING and chosen.faces_WxC.shape == (FOLLOWING, 7)
    ids, face_ids = np.repeat(chosen.windows_W, 7), chosen.faces_WxC.ravel()
    plain = world.evaluator.inference.batches(split, ids)
    shown = world.evaluator.inference.batches(split, ids, face_ids)
    position = 0
    for (_, before, rows), (_, after, same_rows) in zip(plain, shown, strict=True):
        before, after = jax.device_get((before, after))
        np.testing.assert_array_equal(rows, same_rows)
        for name in before.keys() - {"images"}:
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
        at = igerg.response_image(before, world.setup.model.special)
        np.testing.assert_array_equal(before["images"][~at], after["images"][~at])
        for pixels in after["images"][at]:
            window = split.window(int(face_ids[position]))
            assert window.response_emotion == position % 7
            source = np.asarray(Image.open(io.BytesIO(window.response_image)).convert("RGB"))
            # Shrunk from the JPEG: the mean colour survives.
            assert np.abs(pixels.mean((0, 1)) - source.mean((0, 1))).max() < 12
            position += 1
    assert position == 7 * FOLLOWING
    assert any(np.unique(chosen.faces_WxC[:, e]).size > 1 for e in range(7))


def test_a_windows_faces_do_not_depend_on_the_other_windows(world):
    split = world.prepared.split("test")
    few, many = (following.plan(split, count) for count in (2, 10))
    common = set(few.windows_W) & set(many.windows_W)
    assert common
    for window in common:
        one = few.faces_WxC[few.windows_W == window]
        np.testing.assert_array_equal(one, many.faces_WxC[many.windows_W == window])


def test_following_reads_the_answers_to_the_faces(world):
    """What the rows say is what the figures and the matrix count."""
    values = world.out["evaluation"]["test"]
    matrix = np.array(world.out["following_matrix"]["test"])
    assert matrix.sum(1).tolist() == [FOLLOWING] * 7
    assert len(world.following) == FOLLOWING
    counted, different = np.zeros((7, 7), int), []
    for row in world.following:
        window = world.prepared.split("test").window(row["index"])
        assert [turn["text"] for turn in row["context"]] == list(window.turn_texts)
        assert all(turn["image"] and turn["seen"] for turn in row["context"])
        assert [r["emotion"] for r in row["responses"]] == list(EMOTIONS)
        assert len({r["image"] for r in row["responses"]}) == 7
        for response in row["responses"]:
            said = lexicon.label(response["generated"])
            assert response["spoken_emotion"] == EMOTIONS[said]
            counted[EMOTIONS.index(response["emotion"]), said] += 1
            assert tuple(response["seen"]) == EMOTIONS
        different.append(len({r["generated"] for r in row["responses"]}))
    np.testing.assert_array_equal(matrix, counted)
    assert values["emotion_following"] == pytest.approx(np.trace(counted) / counted.sum())
    assert values["emotion_following_distinct"] == np.mean(different) > 1
    assert values["emotion_following_chance"] == pytest.approx(1 / 7)


def _response_emotions(world, split):
    turns = world.prepared.split(split)
    return turns.turns.emotion[turns.response_turn]


def test_the_answers_to_the_faces_are_counted_beside_peoples(world):
    found = json.loads((world.workdir / "answers.json").read_text())["test"]
    for who in ("model", "people"):
        assert set(found[who]) == {*EMOTIONS, "all"}
    assert [found["model"][emotion]["answers"] for emotion in EMOTIONS] == [FOLLOWING] * 7
    with_label = np.bincount(_response_emotions(world, "test"), minlength=7)
    expected = np.minimum(with_label, FOLLOWING).tolist()
    assert [found["people"][emotion]["answers"] for emotion in EMOTIONS] == expected
    shown = {emotion: [] for emotion in EMOTIONS}
    for row in world.following:
        for response in row["responses"]:
            shown[response["emotion"]].append(response["generated"])
    for emotion, texts in shown.items():
        got = found["model"][emotion]
        assert got["distinct"] == len(set(texts))
        cues = [sum(lexicon.count_cues(text).values()) for text in texts]
        assert got["mean_cues"] == pytest.approx(np.mean(cues))
    assert 0 <= found["model"]["all"]["broken_off"] <= found["model"]["all"]["unfinished"]
    assert found["people"]["all"]["broken_off"] is None


class Knows:
    """Finds the emotion shown, and joy in every second window."""

    def labels(self, texts):
        found = np.tile(np.arange(7), (FOLLOWING, 1))
        found[1::2] = EMOTIONS.index("joy")
        assert len(texts) == found.size
        return found.ravel()


class Joyful:
    """Finds joy in all."""

    def labels(self, texts):
        return np.full(len(texts), EMOTIONS.index("joy"))


def test_other_labellers_read_the_same_answers(world, monkeypatch):
    monkeypatch.setattr(world.evaluator, "labellers", {"second": Knows(), "third": Joyful()})
    found = world.evaluator.following(world.params, "test")
    values, before = found.values, world.out["evaluation"]["test"]
    assert values["emotion_following"] == before["emotion_following"]
    joyful = FOLLOWING // 2
    expected = (FOLLOWING - joyful + joyful / 7) / FOLLOWING
    assert values["emotion_following_second"] == pytest.approx(expected)
    assert values["emotion_following_second_standard_error"] > 0
    assert values["emotion_following_third"] == pytest.approx(1 / 7)
    said = np.array(found.windows["said_second"]), np.array(found.windows["said_third"])
    assert said[0].shape == said[1].shape == (FOLLOWING, 7) and said[1].min() == said[1].max()
    assert "emotion_following_second" not in before and world.out["text_labeller"] == {}


def test_other_labellers_read_the_generated_responses_and_peoples_own(world, monkeypatch):
    monkeypatch.setattr(world.evaluator, "labellers", {"third": Joyful()})
    values = world.evaluator.metrics(world.params, "test", generate=True).values
    before = world.out["evaluation"]["test"]
    split = world.prepared.split("test")
    meant = split.turns.emotion[split.response_turn[:GENERATED]]
    share = np.mean(meant == EMOTIONS.index("joy"))
    for name in ("response_emotion_accuracy_third", "reference_response_emotion_accuracy_third"):
        assert values[name] == pytest.approx(share) and name not in before
    for name in ("accuracy", "macro_f1", "non_neutral_accuracy"):
        assert values.get(f"response_emotion_{name}") == before.get(f"response_emotion_{name}")


# One with the cue words of each emotion.
TEXTS = "Wow! I am scared. That is gross. So happy. So sad. I hate it. It is on the table."
TEXTS = re.findall(r"[^!.]+[!.]", TEXTS)


def test_a_model_that_says_what_it_is_shown_follows_every_face(world, monkeypatch):
    """Through batches, padding and the labeller: 100 % and seven different responses."""
    assert [lexicon.label(text) for text in TEXTS] == list(range(7))
    pools = {}
    split = world.prepared.split("test")
    chosen = following.plan(split, FOLLOWING)
    ids = chosen.faces_WxC.ravel()
    for _, batch, _ in world.evaluator.inference.batches(split, ids):
        batch = jax.device_get(batch)
        at = igerg.response_image(batch, world.setup.model.special)
        for pixels, emotion in zip(batch["images"][at], batch["response_emotion"], strict=False):
            pools[pixels.tobytes()] = emotion
    encode = world.prepared.tokenizer.encode

    def knows(params, batch, rng, rows_B, target_emotion_BxC):
        batch = jax.device_get(batch)
        at = igerg.response_image(batch, world.setup.model.special)
        tokens = np.zeros((len(at), 24), np.int32)
        for row, pixels in zip(np.flatnonzero(at.any(1)), batch["images"][at], strict=True):
            said = encode(TEXTS[int(pools[pixels.tobytes()])])
            tokens[row, : len(said)] = said
        return Responses(tokens, None, None)

    monkeypatch.setattr(world.evaluator.inference, "_respond", knows)
    followed = world.evaluator.following(world.params, "test")
    assert followed.values["emotion_following"] == 1
    assert followed.values["emotion_following_standard_error"] == 0
    assert followed.values["emotion_following_distinct"] == 7
    np.testing.assert_array_equal(followed.matrix, FOLLOWING * np.eye(7, dtype=int))
    whole = followed.answers["model"]["all"]
    assert whole["broken_off"] == 0 and whole["with_cue"] == pytest.approx(6 / 7)


def test_a_model_that_says_what_it_is_asked_for_has_every_emotion(world, monkeypatch):
    def obeys(params, batch, rng, rows_B, target_emotion_BxC):
        said = [world.prepared.tokenizer.encode(TEXTS[e]) for e in target_emotion_BxC.argmax(1)]
        rows = [np.pad(tokens, (0, 24 - len(tokens))) for tokens in said]
        return Responses(np.stack(rows).astype(np.int32), None, None)

    monkeypatch.setattr(world.evaluator.inference, "_respond", obeys)
    values = world.evaluator.asked(world.params, "test")
    assert values["emotion_asked"] == 1 and values["emotion_asked_distinct"] == 7


@pytest.mark.parametrize(
    "changes",
    [
        dict(evaluate__following_examples=0),
        dict(data__use_images=False),
        dict(data__include_response_image=False),
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_following_is_left_out_where_no_face_can_be_shown(world, data_dir, monkeypatch, changes):
    config = make_config(data_dir, **changes)
    setup = dataclasses.replace(world.setup, config=config)
    monkeypatch.setattr(world.evaluator.inference, "setup", setup)
    assert world.evaluator.following(world.params, "test") is None


def test_following_is_left_out_without_faces_of_every_emotion(world):
    split = copy.copy(world.prepared.split("test"))
    split.turns = copy.copy(split.turns)
    split.turns.emotion = np.where(split.turns.emotion == 2, 3, split.turns.emotion)
    assert following.plan(split, FOLLOWING) is None
    split = copy.copy(world.prepared.split("test"))
    split.standalone = True
    assert following.plan(split, FOLLOWING) is None


def test_a_batch_is_on_the_mesh(world):
    """What the jitted functions get is spread over the devices, rows numbered by window."""
    split = world.prepared.split("valid")
    (places, batch, rows_B), *_ = world.evaluator.inference.batches(split, np.arange(3, 9))
    assert places.tolist() == [*range(6)] and rows_B.tolist() == [3, 4, 5, 6, 7, 8, 0, 0]
    batch_lib.check(batch, dataclasses.replace(world.setup.spec, batch_size=len(rows_B)))
    assert batch["images"].sharding == sharding.batch_sharding(world.setup.mesh)
