"""The protocol over again, for a few rows in memory: what the database should hold by now.

The words are those of ``tests/system/protocol/model.py``, which says why each rule is as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.system.protocol.model import FINISHED, Status

MAX_ATTEMPTS = 2
MAX_CRASHES = 2


@dataclass
class Row:
    """A task; below the line what its row does not say."""

    status: Status
    token: int = 0
    attempts: int = 0
    crashes: int = 0
    holder: int | None = None
    cancel_requested: bool = False
    # ---
    due: bool = True
    overdue: bool = False
    executions: int = 0
    counted: int = 0  # Attempts, over its whole life, less those that were given back.
    pardons: int = 0
    requeues: int = 0
    history: set[int] = field(default_factory=set)  # Tokens of attempts that did not succeed.

    def stored(self) -> tuple[object, ...]:
        return (
            self.status, self.token, self.attempts, self.crashes, self.holder,
            self.cancel_requested,
        )  # fmt: skip

    def is_held_with(self, token: int) -> bool:
        return self.status == "RUNNING" and self.token == token

    def claim(self, worker: int, token: int) -> None:
        """Record a claim. The database chooses the token, which is higher than any before."""
        assert token > self.token
        self.status, self.holder, self.overdue, self.token = "RUNNING", worker, False, token
        self._count(1)

    def return_claims(self, status: Status) -> None:
        self._leave("CANCELLED" if self.cancel_requested else status)
        self.token += 1
        self._count(-1)

    def succeed(self) -> None:
        self._leave("SUCCESSFUL")

    def fail(self) -> None:
        self.history.add(self.token)
        self._leave(self._again("SCHEDULED"))

    def rescue(self, *, lost: bool) -> None:
        self.history.add(self.token)
        self.token += 1
        if not lost:
            self._leave(self._again("SCHEDULED"))
            return
        self.crashes += 1
        if self.crashes == 1:  # It may not even have started.
            self._count(-1)
            self.pardons += 1
            self._leave("CANCELLED" if self.cancel_requested else "READY")
        else:
            self._leave("FAILED" if self.crashes >= MAX_CRASHES else self._again("READY"))

    def hold(self) -> None:
        if self.status in ("READY", "SCHEDULED"):
            self.status = "HELD"

    def unhold(self) -> None:
        if self.status == "HELD":
            self.status = "READY" if self.due else "SCHEDULED"

    def cancel(self, *, force: bool = False) -> None:
        if self.status in ("READY", "SCHEDULED", "HELD"):
            self.status = "CANCELLED"
        elif self.status == "RUNNING":
            self.cancel_requested = True
            if force:
                self.history.add(self.token)
                self.token += 1
                self._leave("CANCELLED")

    def requeue(self, *, reset_attempts: bool) -> None:
        if self.status in FINISHED:
            self.status, self.crashes, self.cancel_requested, self.due = "READY", 0, False, True
            self.token += 1
            self.requeues += 1
            if reset_attempts:
                self.attempts = 0

    def _again(self, status: Status) -> Status:
        if self.attempts >= MAX_ATTEMPTS:
            return "FAILED"
        return "CANCELLED" if self.cancel_requested else status

    def _leave(self, status: Status) -> None:
        self.status, self.holder, self.overdue = status, None, False
        if status == "SCHEDULED":
            self.due = False

    def _count(self, number: int) -> None:
        self.attempts += number
        self.counted += number
