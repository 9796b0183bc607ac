"""A model to talk with: what it is asked is what it answers, and it compiles once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import talking

from igerg_jax import kept_traces
from igerg_jax.batch import EMOTIONS
from igerg_jax.decoding import search
from igerg_jax.decoding.guidance import Guidance
from igerg_jax.errors import UserError
from igerg_jax.models import igerg

TURNS = [("a i q", None), ("b j r", None)]
FACES = [talking.face(seed) for seed in range(7)]


def test_nothing_that_changes_from_turn_to_turn_compiles_again(responder, monkeypatch):
    traces, plain = [], search.generate
    monkeypatch.setattr(search, "generate", lambda *given: traces.append(1) or plain(*given))
    responder.compile(["greedy"], for_each_face=True)
    before = len(traces)
    assert before <= 2  # of one row, of seven: unless another test's answers traced them
    responder.respond(TURNS, None, guidance=0)
    responder.respond([*TURNS, ("c k s", FACES[0])], FACES[1], guidance=2.5, draw=3)
    responder.respond(TURNS[:1], FACES[2], "joy", strategy="greedy")
    responder.respond_to_each_face(TURNS, FACES[::-1], guidance=0.5)
    assert len(traces) == before


def test_a_process_that_finds_traces_answers_without_tracing(drawn, monkeypatch, tmp_path):
    expected = drawn.make_responder().respond(TURNS, FACES[0])
    kept_traces.keep_in(tmp_path)
    assert drawn.make_responder().respond(TURNS, FACES[0]) == expected
    monkeypatch.setattr(igerg.Igerg, "encode", None)
    assert drawn.make_responder().respond(TURNS, FACES[0]) == expected
    others = drawn.make_responder()
    with pytest.raises(TypeError):  # another program, or other settings of the same
        others.respond_to_each_face(TURNS, FACES)
    drawn.config.generate.max_tokens -= 1
    try:
        with pytest.raises(TypeError):
            drawn.make_responder().respond(TURNS, FACES[0])
    finally:
        drawn.config.generate.max_tokens += 1


def test_each_face_is_answered_as_on_its_own(responder):
    answers = responder.respond_to_each_face(TURNS, FACES)
    alone = [responder.respond(TURNS, face) for face in FACES]
    assert [a.text for a in answers] == [a.text for a in alone]
    assert len({round(a.score, 4) for a in answers}) == 7, "or the faces do not matter"
    for together, single in zip(answers, alone, strict=True):
        assert together.seen[2] == pytest.approx(single.seen[2], abs=1e-3)
        assert together.judge == pytest.approx(single.judge, abs=1e-3)
    with pytest.raises(ValueError, match="6 faces"):
        responder.respond_to_each_face(TURNS, FACES[:6])


def test_a_named_emotion_takes_the_place_of_the_one_that_is_seen(responder):
    scores = {e: responder.respond(TURNS, FACES[0], e).score for e in (None, *EMOTIONS)}
    assert len({round(score, 4) for score in scores.values()}) == 8
    seen = responder.respond(TURNS, FACES[0], "joy").seen[2]
    assert seen == responder.respond(TURNS, FACES[0]).seen[2]


def test_guidance_may_differ_from_call_to_call(responder):
    """The number that is given later decodes as the one that is compiled in, 0 without a floor."""
    rng = np.random.default_rng(0)
    log_p, log_q = jax.nn.log_softmax(jnp.asarray(rng.standard_normal((2, 3, 9)) * 3))
    for guidance in (0.0, 0.5, 2.0):
        later = Guidance(jnp.float32(guidance), 0.3)
        assert later.needs_both
        fixed = Guidance(guidance, 0.3)
        expected = fixed.combine(log_p, log_q) if fixed.needs_both else log_p
        np.testing.assert_allclose(later.combine(log_p, log_q), expected, atol=1e-5)
    scores = [responder.respond(TURNS, FACES[0], guidance=g).score for g in (0, 1, 3)]
    assert len(set(scores)) == 3
    assert responder.respond(TURNS, FACES[0]).score == scores[1]  # what generate.guidance says


def test_another_draw_is_another_sample(responder):
    first, second, again = (
        responder.respond(TURNS, FACES[0], strategy="sample", draw=draw) for draw in (0, 1, 0)
    )
    assert first == again
    assert first.score != second.score


def test_pixels_stand_for_the_image_they_were_read_from(responder, tmp_path):
    picture = talking.png(talking.face(1, side=40))
    (tmp_path / "face.png").write_bytes(picture)
    pixels = responder.read(picture)
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(responder.read(tmp_path / "face.png"), pixels)
    assert responder.read(pixels) is pixels
    assert responder.respond(TURNS, pixels) == responder.respond(TURNS, picture)
    assert sum(responder.see(pixels).values()) == pytest.approx(1, abs=0.01)
    assert responder.see(pixels) != responder.see(FACES[3])


def test_it_is_given_the_last_turns_with_their_images(responder):
    turns = [("too long ago", FACES[0]), ("a i q", FACES[1]), ("b j r", None)]
    answer = responder.respond(turns, FACES[2])
    assert answer == responder.respond(turns[1:], FACES[2])
    assert [seen is not None for seen in answer.seen] == [True, False, True]
    assert responder.respond(TURNS).seen == (None, None, None)
    assert responder.respond(TURNS).sequence is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(emotion="glee"), "no emotion 'glee'; available: surprise"),
        (dict(strategy="guess"), "no strategy 'guess'; available: greedy"),
        (dict(guidance=-1), "guidance must be a number of at least 0"),
        (dict(guidance=float("nan")), "guidance must be a number of at least 0"),
        (dict(response_image=np.zeros((8, 8, 3), np.uint8)), r"pixels must be uint8 \[16, 16, 3\]"),
        (dict(response_image=b"no image"), "cannot read the image"),
        (dict(turns=[("  ", None)]), "the context is empty"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_wrong_choice_is_named(responder, options, message):
    with pytest.raises(UserError, match=message):
        responder.respond(**{"turns": TURNS, **options})
