"""Parses and checks the requests of the demo's page."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.tools.demo import images

MAX_BYTES = 8 * 2**20  # of a request
MAX_CHARACTERS = 2000  # of a turn
MAX_GUIDANCE = 10.0


class Refused(Exception):
    """A request that is refused: an HTTP status, and the message for the page."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Question(NamedTuple):
    """A request for a response. Faces are pixels (uint8 [side, side, 3]) or None."""

    turns: list[tuple[str, np.ndarray | None]]
    face: np.ndarray | None
    emotion: str | None
    set: int  # of drawn faces
    options: dict[str, Any]  # guidance, strategy and draw, for `Responder.respond`


async def body(request: Request) -> bytes:
    """The body of a request that this page sent.

    Raises:
      Refused: another site's page sent it, or it has more than MAX_BYTES.
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or origin not in (None, f"http://{request.url.netloc}"):
        raise Refused(403, "only the demo's own page may send requests")
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise Refused(413, f"that is too large: at most {MAX_BYTES // 2**20} MB")
    return bytes(data)


def question(data: bytes, side: int) -> Question:
    """Parses the JSON of a question.

    Args:
      side: pixels per side of the model's images.

    Raises:
      UserError: it is invalid.
    """
    try:
        given = storage.from_json(data)
    except ValueError as error:
        raise UserError("the request is not JSON") from error
    if not isinstance(given, Mapping) or not isinstance(given.get("turns"), list):
        raise UserError("the request must be an object with a list of 'turns'")
    return Question(
        turns=[_turn(turn, side) for turn in given["turns"]],
        face=_pixels(given.get("face"), side),
        emotion=_of_type(given, "emotion", str),
        set=_of_type(given, "set", int) or 0,
        options={
            "guidance": _guidance(given),
            "strategy": _of_type(given, "strategy", str),
            "draw": _draw(given),
        },
    )


def _turn(turn: object, side: int) -> tuple[str, np.ndarray | None]:
    text = turn.get("text") if isinstance(turn, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError("write something first: every turn needs words")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"a turn may have at most {MAX_CHARACTERS:,} characters, not {len(text):,}")
    return text, _pixels(turn.get("pixels"), side)


def _pixels(value: object, side: int) -> np.ndarray | None:
    return None if value is None else images.from_text(value, side)


def _guidance(given: Mapping[str, Any]) -> float | None:
    guidance = _of_type(given, "guidance", (int, float))
    if guidance is not None and not (math.isfinite(guidance) and 0 <= guidance <= MAX_GUIDANCE):
        raise UserError(f"the guidance must be between 0 and {MAX_GUIDANCE:g}")
    return None if guidance is None else float(guidance)


def _draw(given: Mapping[str, Any]) -> int:
    draw = _of_type(given, "draw", int) or 0
    if not 0 <= draw < 2**31:
        raise UserError("'draw' must be a number from 0")
    return draw


def _of_type(given: Mapping[str, Any], name: str, kind: Any) -> Any:
    value = given.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise UserError(f"'{name}' has the wrong type: {value!r}")
    return value
