"""Who has come, while the processes of a run join: JAX says only that not all have.

Every process sends its index to process 0 each second, as a UDP datagram to the coordinator's port,
until all are there. Where a firewall lets none through, process 0 has heard of nobody.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

_EVERY_SECONDS = 1.0
_PREFIX = b"igerg_jax process "


class Roll:
    """The processes of a run, and which of them have been heard of."""

    def __init__(self, count: int):
        self.count, self.there = count, {0}

    def missing(self) -> list[int]:
        return [index for index in range(self.count) if index not in self.there]


def listen(port: int, count: int) -> Roll:
    """In process 0: hears of the others from now on, where the port can be listened on."""
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
def answering(host: str, port: int, index: int) -> Iterator[None]:
    """Inside, tells process 0 at `host` that process `index` is there."""
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
