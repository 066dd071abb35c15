"""A sleep that can be cut short: by a thread, by a signal, by what can be read."""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import Any

MAX_SLEEP_SECONDS = 86_400.0  # Seconds at a stretch; poll() counts milliseconds, and not far.

# select() takes no descriptor above 1023, and epoll would take one more for each sleep.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Waker:
    """
    A sleep that a thread or a signal handler may cut short.

    A pair of sockets rather than a threading.Event: a handler that sets an Event hangs if the
    signal finds the main thread inside wait(), holding the lock of that Event.
    """

    def __init__(self) -> None:
        self.woken = False  # Whether that is what ended the last sleep.
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # Full, it rings already; closed, nobody sleeps.
            self._writer.send(b"\0")

    def sleep(self, seconds: float, *others: Any) -> bool:
        """Sleep so long, or until it rings or one of these can be read; tell if it was so."""
        with _Selector() as selector:
            for one in (self._reader, *others):
                selector.register(one, selectors.EVENT_READ)
            ringing = [key.fileobj for key, _ in selector.select(min(seconds, MAX_SLEEP_SECONDS))]
        self.woken = self._reader in ringing
        if self.woken:
            self._reader.recv(4096)
        return bool(ringing)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
