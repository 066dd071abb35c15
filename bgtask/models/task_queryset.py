"""Select tasks, and change them as operators do."""

from __future__ import annotations

from typing import Any

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, Count, F, Q, Value, When

from bgtask.conf import get_settings
from bgtask.db import DatabaseNow, KeysetAtOrAfter, operations_for
from bgtask.db.functions import key_of_finished, raised_token
from bgtask.db.sql import PRIORITY_MIN
from bgtask.loggers import get_logger
from bgtask.models import hooks
from bgtask.models.deletion import Deletion, delete, kept_in_words
from bgtask.models.requeue import Requeued, requeue_unique
from bgtask.status import FINISHED, LIVE, TRANSITIONS, WAITING, HeldFor, Status, WorkerState

logger = get_logger(__name__)

CLAIM_ORDER = ("-priority", "run_at", "id")


def retry_condition() -> Q:
    """
    Return what is true of a SCHEDULED task if it waits for a retry, and not for its first attempt.

    Its last attempt failed, and it has another one left. So a finished task that an operator
    requeued for later is not retrying. ``Task.is_retrying`` says the same of one row.
    """
    by_default = (Q(max_attempts=None) | Q(max_attempts=0)) & Q(
        attempts__lt=get_settings().max_attempts
    )
    has_attempts_left = Q(max_attempts__gt=F("attempts")) | by_default
    return Q(attempts__gt=0) & ~Q(error_class="") & has_attempts_left


class TaskQuerySet(models.QuerySet[Any]):
    # Filters

    def ready(self) -> TaskQuerySet:
        return self.filter(status=Status.READY)

    def scheduled(self) -> TaskQuerySet:
        return self.filter(status=Status.SCHEDULED)

    def retrying(self) -> TaskQuerySet:
        """Return the tasks that wait for a retry, because an attempt failed."""
        return self.scheduled().filter(retry_condition())

    def running(self) -> TaskQuerySet:
        return self.filter(status=Status.RUNNING)

    def overdue(self) -> TaskQuerySet:
        """Return the running tasks that are past their deadline."""
        return self.running().filter(deadline_at__lte=DatabaseNow())

    def lost(self) -> TaskQuerySet:
        """Return the tasks whose row says RUNNING, but whose worker is dead."""
        return self.running().filter(locked_by__state=WorkerState.DEAD)

    def abandoned(self) -> TaskQuerySet:
        """Return the tasks whose row says RUNNING, but whose worker is dead or silent."""
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
        Return the tasks that an ordinary claim takes from this queue, in claim order.

        Suspects are left out. ``floor`` is the lowest priority to take. ``after`` is the claim key
        of a task that was claimed before. The result then begins at that key, after tasks that are
        known to be gone, and leaves out other priorities. So a short result does not mean that the
        queue has no more tasks.
        """
        tasks = self.ready().filter(crashes=0, queue=queue).order_by(*CLAIM_ORDER)
        if floor is not None and floor > PRIORITY_MIN:  # SQLite may store lower ones.
            tasks = tasks.filter(priority__gte=floor)
        if after is not None:
            negated_priority, run_at, id_ = after
            tasks = tasks.filter(KeysetAtOrAfter(run_at, id_), priority=-negated_priority)
        return tasks

    def suspects(self) -> TaskQuerySet:
        """Return the READY tasks that a worker held when it died. Each must run alone."""
        return self.ready().filter(crashes__gt=0).order_by("crashes", "queue", *CLAIM_ORDER)

    # Actions of operators

    def run_now(self) -> int:
        """Make SCHEDULED tasks READY before they are due; return how many."""
        return self._wake(self.scheduled().update(status=Status.READY, run_at=DatabaseNow()))

    def hold(self, held_for: HeldFor = HeldFor.OPERATOR) -> int:
        """Stop READY and SCHEDULED tasks from being claimed; return how many."""
        start, _ = TRANSITIONS["hold"]
        return self.filter(status__in=sorted(start)).update(status=Status.HELD, held_for=held_for)

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
        Cancel waiting tasks, and ask running tasks to stop; return how many.

        With ``force``, nothing waits for running tasks. They become CANCELLED at once, and the
        outcomes that their workers report are dropped.
        """
        forced = hooks.cancel_running(self) if force else 0
        # Use one statement that decides row by row. Between two statements, a task could be
        # claimed, released or retried, and be neither cancelled nor asked to stop. A task that was
        # asked becomes CANCELLED when it would wait again. The status comes last, since MariaDB
        # evaluates SET from left to right.
        waits = Q(status__in=WAITING)
        return forced + self.live().update(
            cancel_requested=Case(
                When(status=Status.RUNNING, then=Value(True)), default=F("cancel_requested")
            ),
            held_for=None,
            finished_at=Case(When(waits, then=DatabaseNow()), default=F("finished_at")),
            unique_key=Case(When(waits, then=key_of_finished()), default=F("unique_key")),
            status=Case(When(waits, then=Value(Status.CANCELLED.value)), default=F("status")),
        )

    def requeue(self, *, reset_attempts: bool = False, spread: float = 0.0) -> int:
        """
        Make finished tasks ready again; return how many.

        Tasks keep their attempts, and a task that has used them up runs once more. With
        ``reset_attempts``, tasks get all their attempts again. ``spread`` delays the tasks, evenly
        by id, over so many seconds. A task with a unique name takes its key again. It is left as
        it is if another task holds that key.
        """
        result = self.requeue_and_report(reset_attempts=reset_attempts, spread=spread)
        return result.number

    def requeue_and_report(self, *, reset_attempts: bool = False, spread: float = 0.0) -> Requeued:
        """Like ``requeue``, but also return which tasks were kept since others hold their keys."""
        changes: dict[str, Any] = {"status": Status.READY, "run_at": DatabaseNow()}
        if spread > 0:
            step = F("id") % Value(10_007) * Value(spread / 10_007)
            changes = {"status": Status.SCHEDULED, "run_at": DatabaseNow(step)}
        if reset_attempts:
            changes["attempts"] = 0
        changes |= {
            "finished_at": None,
            "crashes": 0,
            "cancel_requested": False,
            "token": raised_token(),
        }
        finished = self.finished()
        others = finished.filter(unique_name=None).update(**changes)
        result = requeue_unique(finished, changes)
        result.number += others
        self._wake(result.number)
        return result

    def give_up_key(self) -> int:
        """Let other tasks have the unique keys that these tasks hold; return how many held one."""
        return self.filter(unique_key__isnull=False).update(unique_key=None)

    def reset_attempts(self) -> int:
        """Give waiting tasks all their attempts again; return how many tasks."""
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
