"""Show the progress of the tasks in one line, which is rewritten on a terminal."""

from __future__ import annotations

import shutil
import time
from collections import deque

from django.core.management.base import OutputWrapper

BAR = 24
WINDOW = 3.0  # Seconds over which the rate is measured.


class Progress:
    def __init__(self, total: int, out: OutputWrapper) -> None:
        self._total = total
        self._out = out
        self._is_terminal = out.isatty()
        self._every = 0.1 if self._is_terminal else 1.0
        self._started = time.monotonic()
        self._told = float("-inf")
        self._seen: deque[tuple[float, int]] = deque()
        self._width = 0

    def show(self, done: int, claimed: int, *, last: bool = False) -> None:
        """Show the progress, unless it was shown just now."""
        now = time.monotonic()
        rate = self._rate(now, done)
        if now - self._told < self._every and not last:
            return
        self._told = now
        elapsed = now - self._started
        counts = f"{done} of {self._total} tasks, {claimed} claimed, {rate:.0f}/s"
        if self._is_terminal:
            self._rewrite(f"  {self._bar(done)} {counts}, {elapsed:.0f} s")
        else:
            self._write(f"  {elapsed:4.0f} s  {counts}\n")

    def end(self) -> None:
        """Keep the line as it is, and continue below it."""
        if self._width:
            self._write("\n")
            self._width = 0

    def _rate(self, now: float, done: int) -> float:
        """Return the tasks per second in the last WINDOW seconds."""
        self._seen.append((now, done))
        while now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        return (done - before) / (now - then) if now > then else 0.0

    def _bar(self, done: int) -> str:
        full = BAR * done // self._total if self._total else BAR
        return f"[{'#' * full}{'.' * (BAR - full)}]"

    def _rewrite(self, line: str) -> None:
        # Leave one column free, because some terminals break a line that fills them.
        line = line[: shutil.get_terminal_size().columns - 1]
        self._write(f"\r{line.ljust(self._width)}")
        self._width = len(line)

    def _write(self, text: str) -> None:
        self._out.write(text, ending="")
        self._out.flush()
