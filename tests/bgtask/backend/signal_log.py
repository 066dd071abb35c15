"""Record the signals of Django's API, in their order."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bgtask.backend import api


@dataclass(frozen=True)
class Sent:
    name: str
    sender: type
    result: Any
    exception: type[BaseException] | None
    thread: str

    @property
    def brief(self) -> tuple[str, str]:
        return self.name, str(self.result.status)


@contextmanager
def recorded():
    """Return a list, to which each signal is added that is sent within the block."""
    sent: list[Sent] = []
    receivers = []
    for name in ("enqueued", "started", "finished"):

        def receive(sender, task_result, name=name, **kwargs):
            error = sys.exc_info()[0]
            sent.append(Sent(name, sender, task_result, error, threading.current_thread().name))

        signal = getattr(api, f"task_{name}")
        signal.connect(receive, weak=False)
        receivers.append((signal, receive))
    try:
        yield sent
    finally:
        for signal, receive in receivers:
            signal.disconnect(receive)
