from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, Count, F, Q, Value, When

from bgtask.conf import get_settings
from bgtask.dialects import MOST_HEADS, Clock, KeyFrom, dialect_of
from bgtask.dialects.statements import PRIORITY_MIN
from bgtask.models.bulk import let_go
from bgtask.models.counters import raised_token
from bgtask.models.deletion import Deletion, kept_in_words
from bgtask.models.enqueue import enqueue, enqueue_many
from bgtask.models.finish import finish, finished_before, put_back
from bgtask.models.pruning import Pruning, delete_tasks
from bgtask.models.rescue import rescue
from bgtask.status import FINISHED, LIVE, WAITING, HeldFor, Status, WorkerState

if TYPE_CHECKING:
    from bgtask.dialects import Head, Outlook
    from bgtask.models.outcome import Outcome
    from bgtask.models.task import Task
    from bgtask.models.worker import Worker

logger = logging.getLogger("bgtask")

CLAIM_ORDER = ("-priority", "run_at", "id")


class TaskQuerySet(models.QuerySet["Task"]):
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
        return self.running().filter(deadline_at__lte=Clock())

    def lost(self) -> TaskQuerySet:
        """Running in the hands of a worker that is dead."""
        return self.running().filter(locked_by__state=WorkerState.DEAD)

    def abandoned(self) -> TaskQuerySet:
        """Running by the book, in the hands of a worker that is dead or silent."""
        return self.running().filter(
            Q(locked_by__state=WorkerState.DEAD) | Q(locked_by__lease_expires_at__lte=Clock())
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
            tasks = tasks.filter(KeyFrom(run_at, id_), priority=-negated_priority)
        return tasks

    def suspects(self) -> TaskQuerySet:
        """Ready, but in a worker's hands when it died; each is to run alone."""
        return self.ready().filter(crashes__gt=0).order_by("crashes", "queue", *CLAIM_ORDER)

    # Enqueue

    def enqueue(
        self,
        task_name: str,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Task:
        """
        Store a task; options in the plain form of ``bgtask.options``.

        It is stored in the transaction that is open on the queue's database. If the caller's
        open transaction is on another one, it is stored once that has been committed; the task
        that is returned has no primary key until then.
        """
        return enqueue(self.model, self.db, task_name, (args, kwargs or {}), options)

    def enqueue_many(
        self, task_name: str, params: Iterable[tuple[Sequence[Any], dict[str, Any]]], **options: Any
    ) -> int:
        """
        Store a task for each ``(args, kwargs)``, all or none; return how many.

        One statement per thousand rows. The iterable is consumed as the rows are written, in one
        transaction: memory stays flat whatever its length.
        """
        return enqueue_many(self.model, self.db, task_name, params, options)

    # Claim, and the ways out of RUNNING

    def outlook(
        self, queues: Sequence[str] | None = None, after: str = "", limit: int = MOST_HEADS
    ) -> Outlook:
        """
        Return what there is to do in these queues, or in all, and what must not be done.

        Of all queues it returns the heads of the first ``limit`` behind the queue ``after``.
        """
        connection = self._connection()
        return dialect_of(connection).outlook(connection, queues, after, limit)

    def claim(
        self,
        worker: Worker,
        queue: str,
        limit: int,
        after: tuple[Any, ...] | None = None,
        floor: int | None = None,
    ) -> list[Task]:
        """Give the worker up to ``limit`` ready tasks of this queue, the most pressing first."""
        return self.claimable(queue, after, floor)[:limit].take(worker)

    def claim_heads(self, worker: Worker, heads: Sequence[Head], limit: int) -> list[Task]:
        """Give the worker up to ``limit`` of these heads of many queues, in this order."""
        max_run_time = get_settings().max_run_time
        return dialect_of(self._connection()).claim_heads(self, heads, limit, worker, max_run_time)

    def claim_news(self, worker: Worker, queue: str, limit: int) -> list[Task]:
        """As ``claim``, by who was told of this queue, and has not looked what must not be done."""
        max_run_time = get_settings().max_run_time
        return dialect_of(self._connection()).claim_news(self, worker, queue, limit, max_run_time)

    def claim_suspect(
        self, worker: Worker, queues: Sequence[str] | None = None, paused: Iterable[str] = ()
    ) -> list[Task]:
        """Give the worker one suspect, to be run while nothing else is."""
        suspects = self.suspects().exclude(queue__in=tuple(paused))
        if queues is not None:
            suspects = suspects.filter(queue__in=queues)
        return suspects[:1].take(worker)

    def take(self, worker: Worker) -> list[Task]:
        """Give the worker just these READY tasks, but for those that others are taking."""
        return dialect_of(self._connection()).claim(self, worker, get_settings().max_run_time)

    def finish(self, outcomes: Sequence[Outcome]) -> dict[int, str]:
        """
        Write how these attempts ended, with a row of history for each that did not succeed.

        Return the new status by id, of those that were still their attempt's; the others were
        rescued or cancelled meanwhile, and are left alone.
        """
        return finish(self._connection(), outcomes)

    def finished_before(self, outcomes: Sequence[Outcome]) -> dict[int, str]:
        """
        Which of these were accepted by a flush whose reply was lost, and the status they got.

        Every other way out of RUNNING raises the token, so the same token and not RUNNING is
        proof. A task that was claimed again since has left a row of history, if it failed.
        """
        return finished_before(self, outcomes)

    def release(self, tasks: Sequence[Task]) -> int:
        """Give back what was claimed and not started; the attempt does not count."""
        return self._wake(put_back(self, tasks, status=Status.READY))

    def park(self, tasks: Sequence[Task], held_for: HeldFor) -> int:
        """Put aside what was claimed and cannot or must not be started."""
        return put_back(self, tasks, status=Status.HELD, held_for=held_for)

    def rescue(
        self, reason: str = "", tell: Callable[[list[Outcome]], object] | None = None
    ) -> int:
        """
        Take back what dead workers hold and what is past its deadline; return how many.

        ``reason`` is why the dead ones died; ``tell`` is called with what became of the tasks,
        page by page, as it is committed.
        """
        return rescue(self, self._connection(), reason, tell)

    # What time, operators and chores do

    def promote(self, limit: int = 1_000) -> int:
        """Make SCHEDULED tasks READY whose time has come; return how many."""
        due = self.scheduled().filter(run_at__lte=Clock()).order_by("run_at", "id")[:limit]
        return dialect_of(self._connection()).promote(due)

    def run_now(self) -> int:
        """Make SCHEDULED tasks READY before their time; return how many."""
        return self._wake(self.scheduled().update(status=Status.READY, run_at=Clock()))

    def hold(self, held_for: HeldFor = HeldFor.OPERATOR) -> int:
        """Stop READY and SCHEDULED tasks from being claimed; return how many."""
        waiting = self.filter(status__in=(Status.READY, Status.SCHEDULED))
        return waiting.update(status=Status.HELD, held_for=held_for)

    def unhold(self) -> int:
        """Let HELD tasks be claimed, once they are due; return how many."""
        return self._wake(
            self.held().update(
                status=Case(
                    When(run_at__lte=Clock(), then=Value(Status.READY.value)),
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
        forced = rescue(self, self._connection(), by_force=True) if force else 0
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
            finished_at=Case(When(waits, then=Clock()), default=F("finished_at")),
            status=Case(When(waits, then=Value(Status.CANCELLED.value)), default=F("status")),
        )

    def requeue(self, *, reset_attempts: bool = False, spread: float = 0.0) -> int:
        """
        Make finished tasks ready again; return how many.

        Attempts are kept, for one more execution where they were used up, or reset for all of
        them. ``spread`` puts them off, evenly by id, over so many seconds.
        """
        changes: dict[str, Any] = {"status": Status.READY, "run_at": Clock()}
        if spread > 0:
            step = F("id") % Value(10_007) * Value(spread / 10_007)
            changes = {"status": Status.SCHEDULED, "run_at": Clock(step)}
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
        return delete_tasks(self.exclude(status=Status.RUNNING))

    def prune(
        self, status: Status, age: float, batch_size: int = 1_000, after: int | None = None
    ) -> Pruning:
        """
        Delete those that finished so many seconds ago, batch by batch; yield how many.

        Tasks to which rows of other tables must refer are kept. ``after`` is the last of those
        that an earlier pruning met: see ``Pruning.after``.
        """
        return Pruning(self, status, age, batch_size, after)

    def unhold_known(self, names: Iterable[str]) -> int:
        """Let tasks run that were parked as unknown, and are known here; return how many."""
        waiting = self.held().filter(held_for=HeldFor.UNKNOWN).order_by()
        known = set(waiting.values_list("task_name", flat=True).distinct()) & set(names)
        return let_go(waiting, known, self._connection())

    def unhold_over(self) -> int:
        """Let tasks run again whose hold is over; return how many."""
        from bgtask.models.pause import TaskHold

        on_hold = TaskHold.objects.in_force().values_list("task_name", flat=True)
        waiting = self.held().filter(held_for=HeldFor.TYPE).order_by()
        names = set(waiting.values_list("task_name", flat=True).distinct())
        over = names - set(on_hold) if names else set()
        return let_go(waiting, over, self._connection())

    def _wake(self, changed: int) -> int:
        if changed:
            connection = self._connection()
            dialect_of(connection).wake(connection, "")
        return changed

    # What is told of them

    def count_by_status(self) -> dict[str, int]:
        counts = dict.fromkeys(Status.values, 0)
        counts.update(self.order_by().values_list("status").annotate(Count("pk")))
        return counts

    def _connection(self) -> BaseDatabaseWrapper:
        return connections[self.db]
