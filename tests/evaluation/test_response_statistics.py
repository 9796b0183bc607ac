"""Statistics of responses, made by hand."""

from __future__ import annotations

import types

import numpy as np
import pytest

from igerg_jax import lexicon
from igerg_jax.batch import EMOTION_ID, EMOTIONS
from igerg_jax.evaluation import response_statistics


def test_the_share_of_words_that_belong_to_cues():
    """Phrases count with all their words, negated cues and marks with none."""
    for text, share in {
        "I hate hate it": 2 / 4,
        "hate, hate! HATE!": 1,
        "That is not a fan of mine": 3 / 7,
        "I am not scared": 0,
        "What!": 1,
        "": 0,
        "?!": 0,
        "I can’t stand him :(": 2 / 4,
    }.items():
        assert lexicon.cue_words_share(text) == pytest.approx(share), text


def test_a_response_that_says_two_words_twice_repeats_itself():
    assert response_statistics.repeats("scary of scary of the") and response_statistics.repeats(
        "so so so sad"
    )
    assert response_statistics.repeats("It’s fine, it's fine.")
    assert not response_statistics.repeats("so so sad") and not response_statistics.repeats(
        "you know that I know you"
    )
    assert not response_statistics.repeats("") and not response_statistics.repeats("wow")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("I see.", True), ("Really?! ", True), ("he said “no.”", True), ("fine (maybe).", True),
        ("nice :)", True), ("ok :D", True), ("so sad :(", True), ("I know…", True), ("☕", True),
        ("I like a lot of", False), ("well,", False), ("I don't (", False), ("see 12", False),
        ("the word 'sad'", False), ("but -", False), ("lol", False), ("", False),
    ],
)  # fmt: skip
def test_which_answers_end(text, whole):
    assert response_statistics.finished(text) == whole


def test_statistics_by_hand():
    texts = ["I hate hate hate", "I hate it.", "I hate it.", "Table legs of the table legs of"]
    found = response_statistics.statistics(texts, np.array([True, False, True, True]))
    assert found == {
        "answers": 4,
        "distinct": 3,
        "with_cue": 3 / 4,
        "mean_cues": 5 / 4,
        "repeats": 2 / 4,
        "mostly_cues": 1 / 4,
        "unfinished": 2 / 4,
        "broken_off": 2 / 4,  # the first and the last; the third was cut at its end
        "frequent_words": [["hate", 3 / 4], ["legs", 1 / 4], ["table", 1 / 4]],
    }
    found = response_statistics.statistics(texts, np.array([False, False, True, True]))
    assert found["unfinished"] == 2 / 4 and found["broken_off"] == 1 / 4
    assert response_statistics.statistics(texts, None)["broken_off"] is None


def test_frequent_words_are_few_and_leave_function_words_out():
    texts = ["I don't think that it's you", *(f"word{i} wow" for i in range(20))]
    found = response_statistics.frequent_words(texts)
    assert found[0] == ["wow", 20 / 21] and len(found) == response_statistics.TOP_WORDS
    assert response_statistics.frequent_words(texts[:1]) == []


def test_by_emotion_counts_the_answers_of_each():
    texts, emotion_N = ["a b", "c d", "e f"], np.array([3, 3, 0])
    found = response_statistics.by_emotion(texts, emotion_N, None)
    assert {name: of["answers"] for name, of in found.items()} == {
        EMOTIONS[3]: 2, EMOTIONS[0]: 1, "all": 3,
    }  # fmt: skip


def test_people_answer_as_often_as_the_model_with_their_own_emotion():
    emotion = np.array([EMOTION_ID["joy"]] * 10 + [EMOTION_ID["anger"]] * 2 + [-1, -1])
    turns = types.SimpleNamespace(emotion=emotion, text=lambda i: f"turn{i} of{emotion[i]}")
    split = types.SimpleNamespace(response_turn=np.arange(1, 14), turns=turns)
    found = response_statistics.people(split, 4)
    assert {name: of["answers"] for name, of in found.items()} == {"joy": 4, "anger": 2, "all": 6}
    assert found["joy"]["distinct"] == 4
    words = [word for word, _ in found["joy"]["frequent_words"]]
    assert words == [f"of{EMOTION_ID['joy']}", "turn1", "turn3", "turn5", "turn7"]
