"""A conversation in the terminal, one line per turn.

/face FILE        the face of the responder; /face none removes it
/emotion joy      the emotion to answer with; /emotion auto: the one seen in the face
/guidance 2       how strongly face and emotion steer the words; 0 is plain decoding
/strategy beam    greedy, sample or beam
/again            another answer to the last line, sampled at random
/new              a new conversation
/help             this list
/quit             ends the conversation, as Ctrl-D and Ctrl-C do
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from igerg_jax.batch import EMOTION_ID
from igerg_jax.decoding.guidance import RANGE
from igerg_jax.decoding.strategies import STRATEGIES
from igerg_jax.errors import UserError, check_known
from igerg_jax.evaluation.responder import Answer, Probabilities, Responder, Turn

PROMPT = "> "
HELP = __doc__.partition("\n\n")[2].rstrip()
AUTO, NONE = "auto", "none"


class Chat:
    """The conversation so far, and the settings with which the responder answers it."""

    def __init__(self, responder: Responder):
        self._responder = responder
        self._turns: list[Turn] = []
        self._face: np.ndarray | None = None  # pixels
        self._emotion: str | None = None
        self._guidance, self._strategy = responder.guidance, responder.strategy
        self._asked: list[Turn] = []  # the turns that the last answer responds to
        self._draw = 0  # counts the answers to the same turns
        self._commands: dict[str, Callable[[str], str]] = {
            "face": self._set_face,
            "emotion": self._set_emotion,
            "guidance": self._set_guidance,
            "strategy": self._set_strategy,
            "again": self._again,
            "new": self._new,
            "help": lambda _: HELP,
        }

    def reply(self, line: str) -> str:
        """The reply to a line: a description of what the command did, or a response.

        Raises:
          UserError: an unknown command, or a wrong argument. The conversation is unchanged.
        """
        if not line.startswith("/"):
            return self._say(line)
        name, _, argument = line[1:].partition(" ")
        known = [f"/{command}" for command in (*self._commands, "quit")]
        check_known(f"/{name}", known, f"there is no command /{name}")
        return self._commands[name](argument.strip())

    def _say(self, words: str) -> str:
        self._draw = 0
        return self._answer([*self._turns, (words, None)], self._strategy)

    def _again(self, _: str) -> str:
        if not self._asked:
            raise UserError("there is no answer yet: say something first")
        self._draw += 1
        return self._answer(self._asked, "sample")

    def _answer(self, turns: list[Turn], strategy: str) -> str:
        turns = turns[-self._responder.config.data.context_turns :]
        answer = self._responder.respond(
            turns, self._face, self._emotion, self._guidance, strategy, self._draw
        )
        self._asked = turns
        # An answer without words is not kept as a turn: no turn that the model has seen is empty.
        spoken = [(answer.text, self._face)] if answer.text.strip() else []
        self._turns = [*turns, *spoken]
        return describe(answer, len(turns), self._emotion)

    def _set_face(self, file: str) -> str:
        if not file:
            raise UserError(f"name an image: /face FILE, or /face {NONE}")
        if file == NONE:
            self._face = None
            return "it answers without a face"
        face = self._responder.read(file)
        seen = self._responder.see(face)
        self._face = face
        said = f"in this face it sees {_likeliest(seen)}" if seen else "it answers with this face"
        if self._responder.is_unfamiliar(face):
            said += ", which means little: it is unlike the images that the model was trained on"
        return said

    def _set_emotion(self, name: str) -> str:
        if name == AUTO:
            self._emotion = None
            return "it answers with the emotion that it sees in the face"
        check_known(name, [AUTO, *EMOTION_ID], f"there is no emotion '{name}'")
        self._responder.require_conditioning()
        self._emotion = name
        return f"it answers with {name}, whatever the face shows"

    def _set_guidance(self, value: str) -> str:
        try:
            guidance = float(value)
        except ValueError as error:
            raise UserError(f"'{value}' is not a number; for instance: /guidance 2") from error
        if not RANGE.allows(guidance):
            raise UserError(f"the guidance must be at least 0, not {value}")
        self._guidance = guidance
        return f"the guidance is {guidance:g}"

    def _set_strategy(self, name: str) -> str:
        check_known(name, STRATEGIES, f"there is no strategy '{name}'")
        self._strategy = name
        return f"the strategy is {name}"

    def _new(self, _: str) -> str:
        self._turns, self._asked = [], []
        return "a new conversation"


def converse(responder: Responder, lines: Iterable[str], write: Callable[[str], None]) -> None:
    """Writes a reply to each line, until the lines end or one is /quit."""
    chat = Chat(responder)
    for line in map(str.strip, lines):
        if line == "/quit":
            return
        if not line:
            continue
        try:
            write(chat.reply(line))
        except UserError as error:
            write(f"error: {error}")


def typed_lines(is_terminal: bool) -> Iterator[str]:
    """Lines from stdin until Ctrl-D or Ctrl-C; with a prompt and line editing in a terminal."""
    if is_terminal:
        import readline  # noqa: F401 - gives `input` line editing
    try:
        while True:
            yield input(PROMPT if is_terminal else "")
    except (EOFError, KeyboardInterrupt):
        if is_terminal:
            print()  # the shell's prompt starts on a line of its own


def describe(answer: Answer, turns: int, emotion: str | None) -> str:
    """A response, then the emotions seen in the face, requested, and read by the judge.

    Args:
      turns: the number of turns that the answer responds to.
      emotion: the requested emotion; None = the one seen in the face.
    """
    seen = answer.seen[turns]
    notes = [f"sees {_likeliest(seen)}"] if seen is not None else []
    notes += [f"requested {emotion}"] if emotion else []
    notes += [f"the judge reads {_likeliest(answer.judge)}"] if answer.judge else []
    described = [answer.text or "(no words)"] + ([f"    [{'; '.join(notes)}]"] if notes else [])
    return "\n".join(described)


def _likeliest(p: Probabilities) -> str:
    emotion = max(p, key=lambda name: p[name])
    return f"{emotion} {p[emotion]:.2f}"
