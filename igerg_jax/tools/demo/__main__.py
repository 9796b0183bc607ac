"""Serves a page on this machine on which to talk with a trained model.

    igerg demo [--checkpoint=small] [--port=7860]

--checkpoint is a workdir, one of its checkpoints, a weights folder, or the name of a model that
comes with igerg_jax. The page is served only on the loopback interface and loads nothing from
elsewhere; nothing that is typed or shown to it is kept or leaves the machine. It needs the extra
`demo`: `pip install starlette uvicorn`. Ctrl-C ends it.

Exit codes: 0; 2 = a mistake in the command or its files, named in one message.
"""

import contextlib
import functools
import pathlib
import socket
import sys
import time
from collections.abc import Callable

from absl import flags

from igerg_jax import environment
from igerg_jax.errors import UserError
from igerg_jax.run import command_line

LOOPBACK = "127.0.0.1"


def define_flags(argv: list[str]) -> flags.FlagValues:
    del argv
    values = flags.FlagValues()
    flags.DEFINE_string(
        "checkpoint",
        "small",
        "A workdir, one of its checkpoints, a weights folder, or the name of a model that comes "
        "with igerg_jax.",
        flag_values=values,
    )
    flags.DEFINE_integer("port", 7860, "Port of the page; 0 = a free one.", flag_values=values)
    return values


def run(values: flags.FlagValues) -> None:
    """Serves the page until Ctrl-C. Raises UserError."""
    try:
        import uvicorn

        from igerg_jax.tools.demo import server
    except ModuleNotFoundError as error:
        raise UserError(
            f"the demo needs the package '{error.name}': pip install starlette uvicorn"
        ) from error
    with listen(values.port) as listener:  # before the model is loaded, which takes longer
        address = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        responder = open_responder(values.checkpoint)
        app = server.make_app(responder, name_of(values.checkpoint), left_to_compile(responder))
        print(f"talk with it at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        settings = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has closed its connections by then
            uvicorn.Server(settings).run(sockets=[listener])


def listen(port: int) -> socket.socket:
    """A listening socket on the loopback interface. Raises UserError if the port is in use."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port={port} must be between 0 and {2**16 - 1}")
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise UserError(
            f"cannot listen on port {port} ({error.strerror}); give another: --port=0 takes a free "
            "one"
        ) from error


def open_responder(checkpoint: str):
    """The `Responder` of a checkpoint, with what a first message needs compiled."""
    from igerg_jax.evaluation.responder import Responder  # imports JAX
    from igerg_jax.setup import enable_compilation_cache

    started = time.monotonic()
    responder = Responder.open(checkpoint)
    enable_compilation_cache(responder.config)
    millions = responder.parameters / 1e6
    print(f"{checkpoint}: {millions:.2f} M parameters; compiling", file=sys.stderr, flush=True)
    responder.compile([responder.strategy], for_each_face=False)
    print(f"ready after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return responder


def left_to_compile(responder) -> list[Callable[[], None]]:
    """What compiles the rest that the page can ask for in pieces of seconds, likeliest first."""
    others = [strategy for strategy in responder.strategies if strategy != responder.strategy]
    pieces = [(responder.strategy, True)]
    pieces += [(strategy, for_each) for strategy in others for for_each in (False, True)]
    return [functools.partial(responder.compile, [name], for_each) for name, for_each in pieces]


def name_of(checkpoint: str) -> str:
    """The page's name for the model, without this machine's paths."""
    return pathlib.PurePath(checkpoint).name or checkpoint


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    return command_line.main(
        argv, __doc__, define_flags, lambda a: run(command_line.parse(a, define_flags))
    )


if __name__ == "__main__":
    environment.run(main)
