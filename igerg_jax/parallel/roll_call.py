"""Which processes of a run have started; JAX reports only that some have not connected.

Until all have connected, every process sends its index to process 0 once a second, as a UDP
datagram to the coordinator's port. Behind a firewall that blocks UDP, all seem to be missing.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

_EVERY_SECONDS = 1.0
_PREFIX = b"igerg_jax process "


class Roll:
    """The processes of a run, and which of them have been heard from."""

    def __init__(self, count: int):
        self.count, self.there = count, {0}

    def missing(self) -> list[int]:
        """The indices not heard from, ascending."""
        return [index for index in range(self.count) if index not in self.there]


def listen(port: int, count: int) -> Roll:
    """In process 0: starts to listen for the others, unless `port` (UDP) is in use."""
    roll = Roll(count)
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("", port))
    except OSError:
        listener.close()
        return roll
    threading.Thread(target=_hear, args=(listener, roll), daemon=True).start()
    return roll


def _hear(listener: socket.socket, roll: Roll) -> None:
    with listener:
        while roll.missing():
            text = listener.recv(100)
            index = text.removeprefix(_PREFIX)
            if text.startswith(_PREFIX) and index.isdigit() and int(index) < roll.count:
                roll.there.add(int(index))


@contextlib.contextmanager
def announced(host: str, port: int, index: int) -> Iterator[None]:
    """Inside the block, announces process `index` to process 0 at `host` every second."""
    done = threading.Event()

    def call() -> None:
        while True:
            with contextlib.suppress(OSError):
                kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
                with socket.socket(kind, socket.SOCK_DGRAM) as sender:
                    sender.sendto(_PREFIX + str(index).encode(), address)
            if done.wait(_EVERY_SECONDS):
                return

    threading.Thread(target=call, name="roll call", daemon=True).start()
    try:
        yield
    finally:
        done.set()
