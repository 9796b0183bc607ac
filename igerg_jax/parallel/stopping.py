"""SIGTERM, Ctrl-C and a closed terminal (SIGHUP): the process saves its unsaved state and exits,
with code 128 + the signal's number, within seconds whatever it is doing.

Outside a `loop`, where no state is unsaved, a signal raises `Stopped`. Inside, it sets a flag that
the loop reads between batches (`Stop.check`), at the same batch in all processes of a run. Python
runs a signal's handler, and a loop reads its flag, only once a call into XLA has returned, which
may take minutes; if that takes too long and nothing is unsaved, a thread ends the process.
"""

import contextlib
import os
import selectors
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator

import jax

from igerg_jax.parallel import processes, watch

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE_SECONDS = 5  # from a signal until the thread ends a process without unsaved state
_AGREE_SECONDS = 60
_POLL_SECONDS = 1
# One Ctrl-C may reach a process twice, from the terminal and from a launch script.
_SAME_PRESS_SECONDS = 1
# Functions whose exceptions Python discards: JAX's garbage collection callback, and finalizers.
_IGNORING = ("_xla_gc_callback", "__del__")
_SIGNAL_KEY, _CHECKS_KEY = "igerg_jax/stop/signal", "igerg_jax/stop/checks/"

_current: "Stop | None" = None


def _is_ignored(frame: types.FrameType | None) -> bool:
    """Whether `frame` is that of one of `_IGNORING`, or was called by one."""
    while frame is not None:
        if frame.f_code.co_name in _IGNORING:
            return True
        frame = frame.f_back
    return False


class Stopped(SystemExit):
    """Raised to end a process that the signal `number` asked to stop."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


class Stop:
    """Whether a signal has asked this run, in any of its processes, to stop. Made by `signals`."""

    def __init__(self):
        self.number: int | None = None  # the signal that the run is to stop for
        self._loops = self._raised = self._closed = False
        self._unsaved = False
        self._since = 0.0  # when the signal came, or the state was last saved
        self._save: Callable[[], None] = lambda: None
        self.after_check: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._checks = 0  # calls of `check`; the same numbers mean the same point in every process
        self._last_check: int | None = None  # the call at which all processes stop
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    @contextlib.contextmanager
    def loop(self, finish_saving: Callable[[], None]) -> Iterator[None]:
        """Inside, signals raise nothing, and `check` returns the signal to stop for.

        Args:
          finish_saving: waits for saves in progress; called before the thread ends the process.
        """
        self._loops, self._save = True, finish_saving
        self._set_unsaved(True)
        try:
            yield
        finally:
            self._loops = False
            self._set_unsaved(False)

    @contextlib.contextmanager
    def nothing_to_save(self) -> Iterator[None]:
        """Within a loop: the state is saved already, so the process may be ended at any time."""
        before = self._unsaved
        self._set_unsaved(False)
        try:
            yield
        finally:
            self._set_unsaved(before)

    def check(self) -> int | None:
        """The signal to stop for here, or None. All processes must call it equally often."""
        self.after_check()
        with self._lock:
            self._checks += 1
            if jax.process_count() == 1:
                return self.number
            stops = self._last_check is not None and self._checks >= self._last_check
            return self.number if stops else None

    def raise_if_stopping(self) -> None:
        """Raises Stopped if `check` returns a signal."""
        if (number := self.check()) is not None:
            raise Stopped(number)

    def _set_unsaved(self, unsaved: bool) -> None:
        self._unsaved, self._since = unsaved, time.monotonic()

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        self._ask(number)
        if _is_ignored(frame):
            threading.Timer(0.1, self._nudge).start()
        elif not self._loops and not self._raised:
            self._raised = True
            self._tell()
            processes.abandon(128 + self.number, is_stop=True)
            raise Stopped(self.number)

    def _ask(self, number: int) -> None:
        if self.number is None:
            self.number, self._since = number, time.monotonic()

    def _watch(self) -> None:
        """The thread's loop: sees signals at once, and those that other processes received."""
        asked = None  # when the first signal was seen
        selector = selectors.DefaultSelector()
        selector.register(self._read, selectors.EVENT_READ)
        while not self._closed:
            arrived = b""
            if selector.select(_POLL_SECONDS):
                arrived = os.read(self._read, 64)
            numbers = [number for number in arrived if number in SIGNALS]
            if numbers:
                self._ask(numbers[0])
            again = asked is not None and time.monotonic() - asked > _SAME_PRESS_SECONDS
            if again and signal.SIGINT in numbers:
                self._end("interrupted again: ended without saving")
            if self.number is None and (client := processes.client()) is not None:
                with contextlib.suppress(Exception):  # XlaRuntimeError: there is no such key
                    self._ask(int(client.key_value_try_get(_SIGNAL_KEY)))
            if self.number is not None and asked is None:
                asked = time.monotonic()
                self._begin(was_here=bool(numbers))
            late = time.monotonic() - self._since > _PATIENCE_SECONDS
            if self.number is not None and not self._unsaved and late:
                self._save()
                self._end(
                    f"stopped by {signal.Signals(self.number).name}; nothing was left to save"
                )
        selector.close()
        for end in (self._read, self._write):
            os.close(end)

    def _begin(self, was_here: bool) -> None:
        """Starts to stop the run; `was_here`: this process received the signal, not another one."""
        if was_here and self._unsaved:
            name = signal.Signals(self.number).name
            print(f"{name}: saving; press Ctrl-C again to end without", file=sys.stderr, flush=True)
        if processes.client() is not None:
            self._tell()
            threading.Thread(target=self._agree, name="agree", daemon=True).start()
        if not was_here:
            self._nudge()

    def _nudge(self) -> None:
        """Makes the main thread handle a signal; not SIGINT, which would count as a second one."""
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    def _tell(self) -> None:
        """Passes the signal on to the other processes of the run."""
        if (client := processes.client()) is not None:
            with contextlib.suppress(Exception):  # XlaRuntimeError: process 0 is gone
                client.key_value_set(_SIGNAL_KEY, str(int(self.number)), allow_overwrite=True)

    def _agree(self) -> None:
        """In a thread: agrees with the other processes on the first check that none has made."""
        client = processes.client()
        with self._lock:  # this process makes no check meanwhile
            self._last_check = self._checks + 1  # if the others do not answer
            with contextlib.suppress(Exception):  # XlaRuntimeError: process 0 is gone
                client.key_value_set(f"{_CHECKS_KEY}{jax.process_index()}", str(self._checks))
                deadline = time.monotonic() + _AGREE_SECONDS
                while time.monotonic() < deadline:
                    counts = client.key_value_dir_get(_CHECKS_KEY)
                    if len(counts) == jax.process_count():
                        self._last_check = 1 + max(int(count) for _, count in counts)
                        return
                    time.sleep(0.02)

    def _end(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
        watch.say_goodbye()
        os._exit(128 + self.number)


@contextlib.contextmanager
def signals() -> Iterator[Stop]:
    """Handles `SIGNALS` inside the block; a nested block yields the outer one's object.

    SIGHUP stays ignored where it is: `nohup` means that the run is to go on.

    Raises Stopped if a signal comes outside a `loop`.
    """
    global _current
    if _current is not None:
        yield _current
        return
    stop = _current = Stop()
    goes_on = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    handled = [number for number in SIGNALS if number != signal.SIGHUP or not goes_on]
    previous = {number: signal.signal(number, stop._handle) for number in handled}
    previous_fd = signal.set_wakeup_fd(stop._write, warn_on_full_buffer=False)
    thread = threading.Thread(target=stop._watch, name="signals", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        _current, stop._closed = None, True
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)
