"""Liveness checks between the processes of a run: reports in one line which one was lost.

JAX notices too, but aborts the process with a C++ stack trace instead of a message. So JAX's
timeouts are set longer, and every process keeps a connection to process 0. If a connection closes
without a goodbye, the process at its other end has ended; if it falls silent, that process or its
host has stopped. Process 0 then tells the others, and all of them end.

A small child of each process sends its heartbeats: a thread would fall silent while the process is
in a call that does not release the GIL, such as the import of a large library.
"""

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from igerg_jax.errors import ProcessEnded, ProcessStalled

_POLL_SECONDS = 1
# From the end of one process until the others end, so that they can first report their own errors.
GRACE_SECONDS = 3
_PORT_KEY = "igerg_jax/watch/port"
_RESTART = "Start the run again: it resumes from its newest checkpoint"

_connections: "list[_Connection]" = []  # this process's
_beating = threading.Event()  # set once a child sends heartbeats

# Sends an empty line per second over each connection while its parent lives and is not stopped.
_HEARTBEATS = """
import os, sys, time
parent, *files = map(int, sys.argv[1:])
while os.getppid() == parent:
    try:
        with open(f"/proc/{parent}/stat", "rb") as stat:
            state = stat.read().rpartition(b")")[2].split()[0]
    except OSError:
        state = b""  # not Linux
    for file in files if state not in (b"T", b"t", b"Z", b"X") else ():
        try:
            os.write(file, bytes([10]))
        except OSError:
            pass  # its other end is gone, or does not read
    time.sleep(1)
"""


class _Connection:
    """A connection to another process; it carries lines of text, one every few seconds at least."""

    def __init__(self, connected: socket.socket, who: str):
        self.socket, self.who = connected, who
        self.seen = self._made = time.monotonic()
        self.ended: float | None = None  # when it closed without a goodbye
        self.done = False  # it has said goodbye
        self._half = b""  # of a line
        connected.setblocking(False)

    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._made

    def read(self) -> list[str]:
        """The lines received since the last call, without heartbeats; [] if it has closed."""
        if self.ended:
            return []
        try:
            data = self.socket.recv(4096)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.seen = time.monotonic()
        if not data:
            self.ended = self.seen
        *lines, self._half = (self._half + data).split(b"\n")
        texts = [line.decode(errors="replace") for line in lines if line]
        self.done = self.done or "goodbye" in texts
        return texts

    def send(self, text: str) -> None:
        """Sends a line, or drops it if the other process has ended or no longer reads."""
        with contextlib.suppress(OSError):
            self.socket.sendall(text.encode() + b"\n")


def start(
    client: Any,
    host: str,
    index: int,
    count: int,
    silence_seconds: int,
    is_joined: Callable[[], bool],
) -> None:
    """Starts to watch the other processes, in a thread.

    Args:
      client: JAX's distributed client, which shares the port that process 0 listens on.
      host: the host of process 0.
      index: of this process, of `count`.
      silence_seconds: a process that sends nothing for so long counts as stalled.
      is_joined: whether this process has not left JAX's distributed system yet.
    """
    me = f"process {index} of {count} ({socket.gethostname()}, pid {os.getpid()})"
    if index == 0:
        listener = listen(0)
        client.key_value_set(_PORT_KEY, str(listener.getsockname()[1]))
        target, arguments = _watch_all, (listener, me, count - 1, silence_seconds, is_joined)
    else:
        port = int(client.blocking_key_value_get(_PORT_KEY, 1000 * silence_seconds))
        try:
            connected = socket.create_connection((host, port), timeout=10)
        except OSError as error:
            print(f"{me} cannot watch process 0 at {host}:{port} ({error})", file=sys.stderr)
            return
        to_0 = _Connection(connected, f"process 0 of {count} ({host})")
        to_0.send(f"hello {me}")
        _connections.append(to_0)
        target, arguments = _watch_one, (to_0, silence_seconds, is_joined)
    threading.Thread(target=target, args=arguments, name="watch", daemon=True).start()
    _beating.wait(silence_seconds / 2)  # the main thread may hold the GIL next


def listen(port: int) -> socket.socket:
    """A TCP server on all interfaces, IPv4 and IPv6, as JAX's coordination service has."""
    dualstack = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dualstack else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=dualstack)


def is_watching() -> bool:
    """Whether this process is connected to another one."""
    return bool(_connections)


def say_goodbye() -> None:
    """Tells the others that this process ends as planned: it is done, or the run is stopped."""
    for connection in list(_connections):
        connection.send("goodbye")


def _watch_one(to_0: _Connection, silence_seconds: int, is_joined: Callable[[], bool]) -> None:
    """In every process but process 0: watches process 0, which reports the loss of others."""
    _send_heartbeats([to_0])
    clock, selector = _Clock(), selectors.DefaultSelector()
    selector.register(to_0.socket, selectors.EVENT_READ)
    while True:
        selector.select(_POLL_SECONDS)
        for line in to_0.read():
            word, _, rest = line.partition(" ")
            if word == "hello":
                to_0.who = rest
            elif word == "lost":
                code, _, message = rest.partition(" ")
                _end(int(code), message)
        clock.forgive([to_0])
        _end_if_lost([to_0], silence_seconds, is_joined)
        if to_0.ended:
            time.sleep(_POLL_SECONDS)


def _watch_all(
    listener: socket.socket,
    me: str,
    others: int,
    silence_seconds: int,
    is_joined: Callable[[], bool],
) -> None:
    """In process 0: watches all others."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    clock = _Clock()
    silent: list[_Connection] = []  # those that get no heartbeats yet
    while True:
        for key, _ in selector.select(_POLL_SECONDS):
            if key.fileobj is listener:
                connected = listener.accept()[0]
                connection = _Connection(connected, "a process")
                connection.send(f"hello {me}")
                _connections.append(connection)
                selector.register(connected, selectors.EVENT_READ, connection)
                silent.append(connection)
                continue
            for line in key.data.read():
                if line.startswith("hello "):
                    key.data.who = line.removeprefix("hello ")
            if key.data.ended:
                selector.unregister(key.fileobj)
        # One child for all connections, unless some do not come (a firewall may block them).
        if silent and (len(_connections) == others or silent[0].age() > silence_seconds / 4):
            _send_heartbeats(silent)
            silent = []
        clock.forgive(_connections)
        _end_if_lost(_connections, silence_seconds, is_joined)


def _send_heartbeats(connections: list[_Connection]) -> None:
    """Starts the child that sends heartbeats, out of reach of a terminal's Ctrl-C."""
    files = [connection.socket.fileno() for connection in connections]
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _HEARTBEATS, *map(str, (os.getpid(), *files))],
        pass_fds=files,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _beating.set()


class _Clock:
    """Notices when this process itself was suspended."""

    def __init__(self):
        self._last = time.monotonic()

    def forgive(self, connections: list[_Connection]) -> None:
        """Restarts the measurement of silence if this process has not listened for a while."""
        now = time.monotonic()
        if now - self._last > 3 * _POLL_SECONDS:
            for connection in connections:
                connection.seen = now
        self._last = now


def _end_if_lost(
    connections: list[_Connection], silence_seconds: int, is_joined: Callable[[], bool]
) -> None:
    """Ends this process, and tells the others to end, if one of them is lost.

    Processes that have said goodbye leave JAX's distributed system together. One that is killed
    while it waits for the others keeps them from that, until JAX aborts them.
    """
    now = time.monotonic()
    for one in connections:
        if one.done and not (one.ended and is_joined()):
            continue
        if one.ended and now - one.ended > (silence_seconds if one.done else GRACE_SECONDS):
            code = ProcessEnded.exit_code
            message = (
                f"{one.who} has ended: its own output shows why, unless it was killed. {_RESTART}"
            )
        elif not one.ended and now - one.seen > silence_seconds:
            code = ProcessStalled.exit_code
            message = (
                f"{one.who} has not answered for {silence_seconds} s: it is stopped, or its host "
                f"hangs or cannot be reached. End it. {_RESTART}"
            )
        else:
            continue
        for other in connections:
            other.send(f"lost {code} {message}")
        _end(code, message)


def _end(code: int, message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def relay(address: str) -> str:
    """A local HOST:PORT that forwards to `address`, which JAX's client connects to instead.

    The client aborts the process, with a C++ stack trace, as soon as its connection closes or is
    reset; it has no setting for that. The relay keeps the connection open when the coordinator has
    gone, whatever the client still sends, so that the watch can end the process with a message.
    """
    host, _, port = address.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            near = listener.accept()[0]
            try:
                far = socket.create_connection((host.strip("[]"), int(port)))
            except OSError:
                near.close()  # gRPC retries
                continue
            for forward in (_to_coordinator, _to_client):
                threading.Thread(target=forward, args=(near, far), daemon=True).start()

    threading.Thread(target=serve, name="relay", daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _to_coordinator(near: socket.socket, far: socket.socket) -> None:
    """Forwards until the client closes its connection; drops what the coordinator cannot get."""
    is_there = True
    with near, far, contextlib.suppress(OSError):
        while data := near.recv(1 << 16):
            try:
                if is_there:
                    far.sendall(data)
            except OSError:
                is_there = False
        far.shutdown(socket.SHUT_RDWR)  # ends `_to_client`, too, which waits for data


def _to_client(near: socket.socket, far: socket.socket) -> None:
    """Forwards until the coordinator closes its connection; the client's stays open."""
    with contextlib.suppress(OSError):
        while data := far.recv(1 << 16):
            near.sendall(data)
