"""A wire between clients and a database server that can be slow, cut, frozen or lose replies."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from pathlib import Path

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST, not FIN.


class Proxy:
    """
    A TCP server that passes all bytes on to the socket of a database server.

    ``delay`` is added to each reply, in seconds. ``cuts`` is the share of replies that become a
    reset. Between freeze() and thaw() nothing passes, and connections stay open on both sides.
    """

    def __init__(self, target: Path, seed: int = 0) -> None:
        self.delay = 0.0
        self.cuts = 0.0
        # Parts of successive requests of a connection. The reply to the last of these is lost.
        self.swallow: tuple[bytes, ...] = ()
        self.swallowed = 0
        self._thawed = threading.Event()
        self._thawed.set()
        self._target = target
        self._random = random.Random(seed)
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        return len(self._pairs)

    def lead_to(self, target: Path) -> None:
        """Pass new connections on to another server."""
        self._target = target

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def cut(self) -> None:
        """Reset all present connections."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._close(pair)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.thaw()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            pair = (client, server)
            try:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server.connect(str(self._target))
            except OSError:  # The client or the server has gone.
                self._close(pair)
                continue
            with self._lock:
                self._pairs.add(pair)
            losing = threading.Event()
            for is_reply in (False, True):
                args = (pair, is_reply, losing)
                threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], is_reply: bool, losing: threading.Event
    ) -> None:
        source, target = reversed(pair) if is_reply else pair
        heard = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._thawed.wait()
                if not is_reply and heard < len(self.swallow) and self.swallow[heard] in data:
                    heard += 1
                    if heard == len(self.swallow):
                        self.swallow = ()
                        losing.set()
                if is_reply:
                    if self.delay:
                        time.sleep(self.delay)
                    if losing.is_set():
                        self.swallowed += 1
                        break
                    if self.cuts and self._random.random() < self.cuts:
                        break
                target.sendall(data)
        self._close(pair)

    def _close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
