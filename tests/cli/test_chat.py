"""The chat in the terminal, by scripted lines."""

import builtins
import types

import numpy as np
import pytest
import talking

from igerg_jax.cli import chat, main


class Recording:
    """A responder that keeps what it was asked."""

    def __init__(self, responder):
        self._responder, self.asked = responder, []

    def __getattr__(self, name):
        return getattr(self._responder, name)

    def respond(self, *arguments):
        self.asked.append(arguments)
        return self._responder.respond(*arguments)


@pytest.fixture
def talk(responder, tmp_path):
    """Lines -> (what was written for each, what the model was asked)."""
    (tmp_path / "face.png").write_bytes(talking.png(talking.face(0)))

    def run(*lines):
        written, recording = [], Recording(responder)
        chat.converse(recording, [line.format(tmp=tmp_path) for line in lines], written.append)
        return written, recording.asked

    return run


def test_what_is_set_holds_for_the_answers_after_it(talk):
    written, asked = talk(
        "a i q", "/face {tmp}/face.png", "/emotion joy", "/guidance 2", "/strategy beam", "b j r",
        "/emotion auto", "/face none", "c k s",
    )  # fmt: skip
    assert "sees" in written[1] and "requested" not in written[0] and "sees" not in written[0]
    assert "sees" in written[5] and "requested joy" in written[5]
    assert "the judge reads" in written[8] and "requested" not in written[8]
    plain, requested, after = asked
    assert plain[1:] == (None, None, 1.0, "greedy", 0)
    assert requested[2:] == ("joy", 2.0, "beam", 0)
    assert requested[1].shape == (16, 16, 3)
    assert after[1:] == (None, None, 2.0, "beam", 0)


def test_a_face_unlike_those_of_the_training_is_named_as_one(talk, responder, monkeypatch):
    monkeypatch.setattr(responder, "_domain", types.SimpleNamespace(outside=lambda x: [True]))
    written, _ = talk("/face {tmp}/face.png")
    assert "means little" in written[0]
    monkeypatch.setattr(responder, "_domain", None)  # not known
    written, _ = talk("/face {tmp}/face.png")
    assert "means little" not in written[0]


def test_the_history_holds_the_last_turns_and_the_faces_of_the_answers(talk):
    _, asked = talk("/face {tmp}/face.png", "a i q", "b j r", "c k s")
    words = [[text for text, _ in turns] for turns, *_ in asked]
    assert words[0] == ["a i q"]
    assert len(words[2]) == 2 and words[2][-1] == "c k s"  # data.context_turns
    (_, own), (_, mine) = asked[2][0]
    assert mine is None and np.array_equal(own, asked[1][1])


def test_again_draws_another_answer_to_the_same_turns(talk):
    written, asked = talk("/again", "a i q", "/again", "/again", "/new", "/again", "b j r")
    assert "no answer yet" in written[0] and "no answer yet" in written[5]
    first, second, third, last = asked
    assert first[0] == second[0] == third[0]
    assert [(a[4], a[5]) for a in asked] == [
        ("greedy", 0), ("sample", 1), ("sample", 2), ("greedy", 0),
    ]  # fmt: skip
    assert [text for text, _ in last[0]] == ["b j r"]


def test_a_mistake_is_one_line_and_changes_nothing(talk):
    mistakes = [
        "/face", "/face {tmp}/none.png", "/emotion glee", "/guidance much", "/guidance -1",
        "/guidance nan", "/strategy guess", "/dance",
    ]  # fmt: skip
    written, asked = talk(*mistakes, "", "a i q", "/help")
    for line, text in zip(mistakes, written, strict=False):
        assert text.startswith("error: ") and "\n" not in text, line
    assert asked[0][1:] == (None, None, 1.0, "greedy", 0)
    assert all(f"/{name}" in written[-1] for name in ("face", "again", "quit", "new"))


def test_quit_ends_it(talk):
    written, asked = talk("a i q", "/quit", "b j r")
    assert len(written) == len(asked) == 1


@pytest.mark.parametrize("key", [EOFError, KeyboardInterrupt])
def test_control_d_and_control_c_end_it(monkeypatch, capsys, key):
    lines = iter(["hello"])

    def typed(prompt):
        print(prompt, end="")
        try:
            return next(lines)
        except StopIteration:
            raise key from None

    monkeypatch.setattr(builtins, "input", typed)
    assert list(chat.typed_lines(is_terminal=True)) == ["hello"]
    assert capsys.readouterr().out == f"{chat.PROMPT * 2}\n"


@pytest.mark.slow
def test_the_command_line(drawn, responder, tmp_path, monkeypatch, capsys):
    drawn.save(tmp_path)
    lines = iter(["a i q", "/quit"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    assert main.main(["main.py", "--mode=chat", f"--checkpoint={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(responder.respond([("a i q", None)]).text)
    assert "the judge reads" in out
