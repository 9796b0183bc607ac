"""A lock in a bucket: an object that its owner rewrites every few seconds and deletes at the end.

A bucket has no locks that are released when their process dies. A process that finds the object
watches it for a while: if it changes, its owner is alive. Two machines' clocks are never compared.
"""

import contextlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from igerg_jax import storage
from igerg_jax.errors import UserError

BEAT_SECONDS = 8.0
_SETTLE_SECONDS = 1.0  # until all processes that started at the same time have written


@contextlib.contextmanager
def locked(path: epath.Path, owner: str) -> Iterator[None]:
    """Holds the lock `path` until the block ends. If the process is killed, the next one takes over
    after three heartbeats.

    Args:
      owner: describes this process, for the messages of others.

    Raises:
      UserError: another process holds it.
    """
    lock, done = _Object(path, owner), threading.Event()
    lock.check_free()
    lock.write()
    time.sleep(_SETTLE_SECONDS)
    lock.check_held()
    thread = threading.Thread(target=_beat, args=(lock, done), name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        lock.delete()


def _beat(lock: "_Object", done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        try:
            lock.check_held()
            lock.write()
        except UserError as error:  # it was suspended for so long that another took over
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(error.exit_code)
        except Exception as error:  # of the network, which may recover in time
            print(f"cannot write '{lock.path}': {error}", file=sys.stderr, flush=True)


class _Object:
    """The lock's object, as this process sees it."""

    def __init__(self, path: epath.Path, owner: str):
        self.path, self._files = path, storage.bucket_files()
        self._identity = {"owner": owner, "id": uuid.uuid4().hex}
        self._beats = 0

    def read(self) -> dict[str, Any]:
        """The object's content; {} if there is none."""
        try:
            content = storage.from_json(self._files.cat_file(os.fspath(self.path)))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write(self) -> None:
        """Writes a heartbeat."""
        self._beats += 1
        text = json.dumps(self._identity | {"beats": self._beats})
        self._files.pipe_file(os.fspath(self.path), text.encode())

    def delete(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(os.fspath(self.path))

    def check_free(self) -> None:
        """Raises UserError if another process holds the lock; waits to see whether it is alive."""
        before, deadline = self.read(), time.monotonic() + 3 * BEAT_SECONDS
        if not before:
            return
        message = f"checking for {3 * BEAT_SECONDS:.0f} s whether {before.get('owner')} still runs"
        print(f"'{self.path.parent}': {message}", file=sys.stderr, flush=True)
        while time.monotonic() < deadline and (now := self.read()):
            if now != before:
                raise self._refusal(now)
            time.sleep(BEAT_SECONDS / 4)

    def check_held(self) -> None:
        """Raises UserError if another process has taken the lock."""
        now = self.read()
        if now.get("id") != self._identity["id"]:
            raise self._refusal(now)

    def _refusal(self, now: dict[str, Any]) -> UserError:
        return UserError(
            f"workdir '{self.path.parent}' is in use by {now.get('owner', 'another process')}; "
            "wait until it ends, stop it, or give another --workdir"
        )
