"""The demo's server: the page, and the routes that its script calls.

    GET  /                        the page; /page.css and /page.js belong to it
    GET  /about                   what the model can do
    GET  /faces/{set}/{emotion}   a drawn face of a held-out person, a JPEG
    POST /see                     an image file, or ?set=&emotion= of a drawn face
                                  -> its pixels as the model sees them, the emotions seen,
                                  and whether it is unlike the images of the training
    POST /answer                  turns, face, emotion, guidance, strategy, draw -> the response
    POST /answers                 the same with a set of faces -> a response to each of the seven

Nothing is kept between requests: the page holds the conversation. The model runs in one thread, so
requests queue. `igerg_jax.tools.demo.questions` refuses invalid ones.
"""

import asyncio
import concurrent.futures
import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from igerg_jax.batch import EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.evaluation.responder import Answer, Responder
from igerg_jax.tools.demo import images, questions
from igerg_jax.tools.demo.questions import Refused

HOSTS = ("127.0.0.1", "localhost")  # refuses other names, against DNS rebinding
MAX_WAITING = 16  # requests for the model, including the one that it is working on
FOLDER = pathlib.Path(__file__).parent
# The page can load only its own files, whatever it is made to show.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(
    responder: Responder, name: str, later: Sequence[Callable[[], object]] = ()
) -> Starlette:
    """The ASGI application.

    Args:
      name: what the page calls the model.
      later: called in the model's thread, one by one, between what visitors ask.
    """
    demo = Demo(responder, name)
    demo.do_later(list(later))
    files = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
    return Starlette(
        routes=[
            *(Route(path, _file(FOLDER / file)) for path, file in files.items()),
            Route("/about", demo.about),
            Route("/faces/{set:int}/{emotion}", demo.face),
            Route("/see", demo.see, methods=["POST"]),
            Route("/answer", demo.answer, methods=["POST"]),
            Route("/answers", demo.answers, methods=["POST"]),
        ],
        middleware=[
            Middleware(_WithHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS),
        ],
        exception_handlers={UserError: _refuse, Refused: _refuse, Exception: _fail},
    )


class Demo:
    """One model with its queue of requests."""

    def __init__(self, responder: Responder, name: str):
        self._responder, self._name = responder, name
        self._side = responder.config.data.image_size
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")
        self._waiting = 0

    def do_later(self, functions: list[Callable[[], object]]) -> None:
        """Calls them in the model's thread; who comes meanwhile waits for one of them at most."""
        if functions:
            with contextlib.suppress(RuntimeError):  # the program ends
                future = self._thread.submit(functions[0])
                future.add_done_callback(lambda _: self.do_later(functions[1:]))

    async def about(self, request: Request) -> Response:
        responder = self._responder
        return JSONResponse(
            {
                "name": self._name,
                "parameters": responder.parameters,
                "emotions": EMOTIONS,
                "strategies": responder.strategies,
                "strategy": responder.strategy,
                "guidance": responder.guidance,
                "context_turns": responder.config.data.context_turns,
                "sees_faces": responder.sees_faces,
                "can_be_conditioned": responder.can_be_conditioned,
                "face_sets": images.FACE_SETS,
                "max_bytes": questions.MAX_BYTES,
            }
        )

    async def face(self, request: Request) -> Response:
        number, emotion = request.path_params["set"], request.path_params["emotion"]
        jpeg = images.drawn_face(number, emotion, for_page=True)
        return Response(jpeg, media_type="image/jpeg")

    async def see(self, request: Request) -> Response:
        data, query = await questions.body(request), request.query_params
        if "emotion" in query:
            number = query.get("set", "0")
            if not number.isdecimal():
                raise UserError(f"there is no set '{number}' of faces")
            data = images.drawn_face(int(number[:9]), query["emotion"], for_page=False)
        else:
            images.check_upload(data)

        def seen() -> dict[str, Any]:
            pixels = self._responder.read(data)
            return {
                "pixels": images.to_text(pixels),
                "seen": self._responder.see(pixels),
                "unfamiliar": self._responder.is_unfamiliar(pixels),
            }

        return JSONResponse(await self._in_turn(seen))

    async def answer(self, request: Request) -> Response:
        asked = questions.question(await questions.body(request), self._side)

        def respond() -> dict[str, Any]:
            answer = self._responder.respond(
                asked.turns, asked.face, asked.emotion, **asked.options
            )
            return self._described(answer, len(asked.turns))

        return JSONResponse(await self._in_turn(respond))

    async def answers(self, request: Request) -> Response:
        asked = questions.question(await questions.body(request), self._side)
        faces = [images.drawn_face(asked.set, e, for_page=False) for e in EMOTIONS]

        def respond() -> dict[str, Any]:
            answers = self._responder.respond_to_each_face(asked.turns, faces, **asked.options)
            described = [self._described(answer, len(asked.turns)) for answer in answers]
            return {"answers": dict(zip(EMOTIONS, described, strict=True))}

        return JSONResponse(await self._in_turn(respond))

    def _described(self, answer: Answer, turns: int) -> dict[str, Any]:
        slot = min(turns, self._responder.config.data.context_turns)
        return {"text": answer.text, "seen": answer.seen[slot], "judge": answer.judge}

    async def _in_turn(self, function: Callable[[], Any]) -> Any:
        """Runs `function` in the model's thread, after those queued before; returns its result."""
        if self._waiting >= MAX_WAITING:
            raise Refused(503, f"{self._waiting} others are waiting; try again in a moment")
        self._waiting += 1
        # It counts until it has run, even if the visitor leaves meanwhile.
        future = self._thread.submit(function)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        return await asyncio.wrap_future(future)

    def _leave(self) -> None:
        self._waiting -= 1


class _WithHeaders:
    """Middleware that adds HEADERS to every response."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, with_headers)


def _file(path: pathlib.Path) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return serve


async def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=getattr(error, "status", 400))


async def _fail(request: Request, error: Exception) -> Response:
    message = "the server failed; its terminal shows why"
    return JSONResponse({"error": message}, status_code=500)
