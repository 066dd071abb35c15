"""Which tasks, and what operators do to them."""

from __future__ import annotations

import logging
from typing import Any

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, Count, F, Q, Value, When

from bgtask.db import DatabaseNow, KeysetAtOrAfter, operations_for
from bgtask.db.sql import PRIORITY_MIN
from bgtask.models import hooks
from bgtask.models.counters import raised_token
from bgtask.models.deletion import Deletion, delete, kept_in_words
from bgtask.status import FINISHED, LIVE, WAITING, HeldFor, Status, WorkerState

logger = logging.getLogger("bgtask")

CLAIM_ORDER = ("-priority", "run_at", "id")


class TaskQuerySet(models.QuerySet[Any]):
    # Which tasks

    def ready(self) -> TaskQuerySet:
        return self.filter(status=Status.READY)

    def scheduled(self) -> TaskQuerySet:
        return self.filter(status=Status.SCHEDULED)

    def retrying(self) -> TaskQuerySet:
        """Waiting for another attempt."""
        return self.scheduled().filter(attempts__gt=0)

    def running(self) -> TaskQuerySet:
        return self.filter(status=Status.RUNNING)

    def overdue(self) -> TaskQuerySet:
        """Running past their deadline."""
        return self.running().filter(deadline_at__lte=DatabaseNow())

    def lost(self) -> TaskQuerySet:
        """Running, by the row, on a worker that is dead."""
        return self.running().filter(locked_by__state=WorkerState.DEAD)

    def abandoned(self) -> TaskQuerySet:
        """Running by the book, in the hands of a worker that is dead or silent."""
        return self.running().filter(
            Q(locked_by__state=WorkerState.DEAD) | Q(locked_by__lease_expires_at__lte=DatabaseNow())
        )

    def held(self) -> TaskQuerySet:
        return self.filter(status=Status.HELD)

    def waiting(self) -> TaskQuerySet:
        return self.filter(status__in=WAITING)

    def live(self) -> TaskQuerySet:
        return self.filter(status__in=LIVE)

    def succeeded(self) -> TaskQuerySet:
        return self.filter(status=Status.SUCCESSFUL)

    def failed(self) -> TaskQuerySet:
        return self.filter(status=Status.FAILED)

    def cancelled(self) -> TaskQuerySet:
        return self.filter(status=Status.CANCELLED)

    def finished(self) -> TaskQuerySet:
        return self.filter(status__in=FINISHED)

    def claimable(
        self, queue: str, after: tuple[Any, ...] | None = None, floor: int | None = None
    ) -> TaskQuerySet:
        """
        What an ordinary claim takes from this queue, in its order; suspects are passed over.

        ``floor`` is the lowest priority to take. ``after`` is the claim key of a task claimed
        before: where to begin, behind what is known to be gone. It leaves out other priorities,
        so a short result says nothing.
        """
        tasks = self.ready().filter(crashes=0, queue=queue).order_by(*CLAIM_ORDER)
        if floor is not None and floor > PRIORITY_MIN:  # SQLite holds lower ones, too.
            tasks = tasks.filter(priority__gte=floor)
        if after is not None:
            negated_priority, run_at, id_ = after
            tasks = tasks.filter(KeysetAtOrAfter(run_at, id_), priority=-negated_priority)
        return tasks

    def suspects(self) -> TaskQuerySet:
        """Ready, but in a worker's hands when it died; each is to run alone."""
        return self.ready().filter(crashes__gt=0).order_by("crashes", "queue", *CLAIM_ORDER)

    # What operators do

    def run_now(self) -> int:
        """Make SCHEDULED tasks READY before their time; return how many."""
        return self._wake(self.scheduled().update(status=Status.READY, run_at=DatabaseNow()))

    def hold(self, held_for: HeldFor = HeldFor.OPERATOR) -> int:
        """Stop READY and SCHEDULED tasks from being claimed; return how many."""
        waiting = self.filter(status__in=(Status.READY, Status.SCHEDULED))
        return waiting.update(status=Status.HELD, held_for=held_for)

    def unhold(self) -> int:
        """Let HELD tasks be claimed, once they are due; return how many."""
        return self._wake(
            self.held().update(
                status=Case(
                    When(run_at__lte=DatabaseNow(), then=Value(Status.READY.value)),
                    default=Value(Status.SCHEDULED.value),
                ),
                held_for=None,
            )
        )

    def cancel(self, *, force: bool = False) -> int:
        """
        Cancel what waits, and ask what runs to stop; return how many.

        By force what runs is no longer waited for: it becomes CANCELLED at once, and whatever
        its worker says of it is dropped.
        """
        forced = hooks.cancel_running(self) if force else 0
        # One statement, that says row by row what becomes of it: between two, a task could be
        # claimed, released or retried, and be neither cancelled nor asked. Asked, it becomes
        # CANCELLED whenever it would wait again. The status comes last, since MariaDB evaluates
        # SET from left to right.
        waits = Q(status__in=WAITING)
        return forced + self.live().update(
            cancel_requested=Case(
                When(status=Status.RUNNING, then=Value(True)), default=F("cancel_requested")
            ),
            held_for=None,
            finished_at=Case(When(waits, then=DatabaseNow()), default=F("finished_at")),
            status=Case(When(waits, then=Value(Status.CANCELLED.value)), default=F("status")),
        )

    def requeue(self, *, reset_attempts: bool = False, spread: float = 0.0) -> int:
        """
        Make finished tasks ready again; return how many.

        Attempts are kept, for one more execution where they were used up, or reset for all of
        them. ``spread`` puts them off, evenly by id, over so many seconds.
        """
        changes: dict[str, Any] = {"status": Status.READY, "run_at": DatabaseNow()}
        if spread > 0:
            step = F("id") % Value(10_007) * Value(spread / 10_007)
            changes = {"status": Status.SCHEDULED, "run_at": DatabaseNow(step)}
        if reset_attempts:
            changes["attempts"] = 0
        return self._wake(
            self.finished().update(
                **changes,
                finished_at=None,
                crashes=0,
                cancel_requested=False,
                token=raised_token(),
            )
        )

    def reset_attempts(self) -> int:
        """Give waiting tasks all their attempts again; return how many."""
        return self.waiting().update(attempts=0, crashes=0)

    def reprioritise(self, priority: int) -> int:
        """Give waiting tasks another priority; return how many."""
        return self._wake(self.waiting().update(priority=priority))

    def move(self, queue: str) -> int:
        """Put waiting tasks into another queue; return how many."""
        return self._wake(self.waiting().update(queue=queue))

    def discard(self) -> int:
        """
        Delete tasks, with their history, unless they are running; return how many.

        A task is kept, with a warning in the log, if a row of another table must refer to it.
        """
        deletion = self.discard_and_report()
        for sentence in kept_in_words(deletion.kept.values()):
            logger.warning("%s", sentence)
        return deletion.number

    def discard_and_report(self) -> Deletion:
        """Like ``discard``, but return which tasks were kept instead of logging it."""
        from bgtask.models.attempt import Attempt

        return delete(self.exclude(status=Status.RUNNING), history={Attempt: "task_id"})

    def _wake(self, changed: int) -> int:
        if changed:
            connection = self._connection()
            operations_for(connection).wake(connection, "")
        return changed

    def count_by_status(self) -> dict[str, int]:
        """Return how many of these tasks there are by status, zero included."""
        counts = dict.fromkeys(Status.values, 0)
        counts.update(self.order_by().values_list("status").annotate(Count("pk")))
        return counts

    def _connection(self) -> BaseDatabaseWrapper:
        return connections[self.db]
