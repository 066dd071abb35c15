"""A sleep that can be cut short: by a thread, by a signal, or by readable data."""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import Any

# For one call of poll(), which takes its timeout as milliseconds in a C int.
MAX_SLEEP_SECONDS = 86_400.0

# select() takes no descriptor above 1023, and epoll would open one more for each sleep.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Waker:
    """
    A sleep that a thread or a signal handler may cut short.

    This is a pair of sockets, not a threading.Event, because a signal handler can't safely set an
    Event. The signal may interrupt the main thread inside wait(), where that thread holds the
    Event's lock. The handler would then hang.
    """

    def __init__(self) -> None:
        self.woken = False  # Whether wake() ended the last sleep.
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def wake(self) -> None:
        # A full socket wakes the sleeper already. A closed socket has no sleeper.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def sleep(self, seconds: float, *others: Any) -> bool:
        """
        Sleep so long, or until wake() is called or one of ``others`` can be read.

        Return whether the sleep was cut short.
        """
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
