"""Take back what dead workers hold, and what ran past its deadline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import DataError, IntegrityError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BooleanField, Case, Q, Value, When

from bgtask import registry
from bgtask.backoff import backoff
from bgtask.conf import get_settings
from bgtask.dialects import Clock, dialect_of, is_about_data
from bgtask.dialects.statements import COUNT_MAX, TOKEN_CEILING
from bgtask.errors import Failure, plain_failure
from bgtask.models.counters import as_count, raised_token
from bgtask.models.outcome import Outcome
from bgtask.status import AttemptOutcome, Status, WorkerState

if TYPE_CHECKING:
    from bgtask.models.task import Task
    from bgtask.models.task_queryset import TaskQuerySet

logger = logging.getLogger("bgtask")

PAGE = 200

# What a rescue does not read: large, or a date edited by hand that Python can't represent.
_UNREAD = (
    "run_at", "enqueued_at", "started_at", "finished_at", "task_params", "last_error",
    "return_value",
)  # fmt: skip


def rescue(
    tasks: TaskQuerySet,
    connection: BaseDatabaseWrapper,
    reason: str = "",
    tell: Callable[[list[Outcome]], object] | None = None,
    *,
    by_force: bool = False,
) -> int:
    """
    Rescue those of these tasks that need it; return how many.

    By force, cancel all of them that run. Found without a lock first, for there is nothing to do
    nearly always; then each page is locked, judged anew and changed in one transaction with the
    rows of history that say why. What became of them is told at once: a page that fails must not
    silence those that are committed.
    """
    total = last = 0
    while page := _find(tasks, after=last, all_running=by_force):
        rescued = _rescue_page(tasks, connection, page, reason, by_force)
        if tell is not None and rescued:
            tell(rescued)
        total += len(rescued)
        last = page[-1].task
        if len(page) < PAGE:
            break
    return total


def _rescue_page(
    tasks: TaskQuerySet,
    connection: BaseDatabaseWrapper,
    page: list[_Found],
    reason: str,
    by_force: bool,
) -> list[Outcome]:
    """
    Rescue all of these in one transaction, or each in its own where one can't be read or written.

    A row that was edited by hand must not keep its neighbours from being rescued.
    """
    try:
        with dialect_of(connection).transaction(connection):
            return _rescue_locked(tasks, connection, page, reason, by_force)
    except (
        DataError, IntegrityError, OperationalError, ValueError, TypeError, OverflowError,
    ) as error:  # fmt: skip
        if isinstance(error, OperationalError) and not is_about_data(error):
            raise
        if len(page) > 1:
            return [
                outcome
                for row in page
                for outcome in _rescue_page(tasks, connection, [row], reason, by_force)
            ]
        logger.error(
            "Task %d cannot be rescued, since its row holds a value that bgtask never stores: %s. "
            "Correct or delete the row.",
            page[0].task,
            str(error).strip(),
        )
        return []


def _rescue_locked(
    tasks: TaskQuerySet,
    connection: BaseDatabaseWrapper,
    page: list[_Found],
    reason: str,
    by_force: bool,
) -> list[Outcome]:
    # Dead is final: who was so when the page was read still is.
    fates = {row.worker: row.fate for row in page if row.fate}
    # A task that another rescuer or an operator is at right now is left to them.
    locked = (
        tasks.filter(pk__in=[row.task for row in page], status=Status.RUNNING)
        .annotate(overdue=_is_overdue())
        .defer(*_UNREAD)
        .order_by("pk")
        .select_for_update(skip_locked=connection.features.has_select_for_update_skip_locked)
    )
    rescued: list[Outcome] = []
    for task in locked:
        task.attempts, task.crashes = as_count(task.attempts), as_count(task.crashes)
        kind = AttemptOutcome.CANCELLED if by_force else fates.get(task.locked_by_id)
        if task.overdue and kind in (None, AttemptOutcome.INTERRUPTED):
            kind = AttemptOutcome.TIMED_OUT
        if kind is not None:
            rescued += _take_back(tasks, task, kind, reason)
    return rescued


class _Found(NamedTuple):
    """A task to rescue, and who holds it."""

    task: int
    worker: int | None
    state: str
    stopped_at: datetime | None

    @property
    def fate(self) -> AttemptOutcome | None:
        """By how its worker came to be dead; none while it lives."""
        if self.state != WorkerState.DEAD:
            return None
        return AttemptOutcome.LOST if self.stopped_at is None else AttemptOutcome.INTERRUPTED


def _find(tasks: TaskQuerySet, after: int, all_running: bool) -> list[_Found]:
    running = tasks.filter(status=Status.RUNNING, pk__gt=after)
    if not all_running:
        running = running.filter(Q(locked_by__state=WorkerState.DEAD) | Q(deadline_at__lte=Clock()))
    found = running.order_by("pk").values_list(
        "pk", "locked_by", "locked_by__state", "locked_by__stopped_at"
    )
    return [_Found(*row) for row in found[:PAGE]]


def _is_overdue() -> Case:
    return Case(
        When(deadline_at__lte=Clock(), then=Value(True)),
        default=Value(False),
        output_field=BooleanField(),
    )


def _take_back(tasks: TaskQuerySet, task: Task, kind: AttemptOutcome, reason: str) -> list[Outcome]:
    """One guarded UPDATE of one locked task, and its row of history."""
    from bgtask.models.attempt import Attempt

    failure: Failure
    changes: dict[str, Any]
    match kind:
        case AttemptOutcome.CANCELLED:
            failure, changes = _cancelled(), {"status": Status.CANCELLED, "cancel_requested": True}
        case AttemptOutcome.LOST:
            failure, changes = _lost(task, reason), _after_loss(task)
        case AttemptOutcome.INTERRUPTED:
            failure, changes = _interrupted(task, reason), _after_interruption(task)
        case _:
            failure, changes = _timed_out(task), _after_timeout(task)
    if changes["status"] in (Status.READY, Status.SCHEDULED) and task.cancel_requested:
        changes["status"] = Status.CANCELLED
    if changes["status"] in (Status.FAILED, Status.CANCELLED):
        changes["finished_at"] = Clock()
    if changes["status"] != Status.READY:
        changes |= {
            "last_error": failure.traceback,
            "error_class": failure.error_class,
            "error_fingerprint": failure.fingerprint,
        }
    ours = tasks.filter(pk=task.pk, status=Status.RUNNING)
    token: Any = task.token
    if isinstance(token, int):
        ours = ours.filter(token=token)
    else:  # SQLite stores text in any column. The row is locked, so its token can't have changed.
        task.token = TOKEN_CEILING
    if not ours.update(
        **changes, locked_by=None, locked_at=None, deadline_at=None, token=raised_token()
    ):
        return []
    Attempt.objects.using(tasks.db).bulk_create(
        [
            Attempt(
                task=task,
                token=task.token,
                number=task.attempts,
                worker=task.last_worker,
                started_at=task.locked_at,
                finished_at=Clock(),
                outcome=kind,
                error_class=failure.error_class,
                message=failure.message,
                traceback=failure.traceback,
                error_fingerprint=failure.fingerprint,
            )
        ],
        ignore_conflicts=True,
    )
    return [Outcome(task, changes["status"], failure=failure, kind=kind)]


def _after_loss(task: Task) -> dict[str, Any]:
    """
    A task that was no suspect gets its attempt back, for it may never have started.

    A suspect ran alone, so it does not; it is convicted at MAX_CRASHES, or fails where its
    attempts are used up.
    """
    was_suspect = task.crashes > 0
    crashes = min(task.crashes, COUNT_MAX - 1) + 1
    attempts = task.attempts if was_suspect else max(task.attempts - 1, 0)
    given_up = crashes >= get_settings().max_crashes or (
        was_suspect and attempts >= task.executions_allowed
    )
    return {
        "status": Status.FAILED if given_up else Status.READY,
        "attempts": attempts,
        "crashes": crashes,
    }


def _after_interruption(task: Task) -> dict[str, Any]:
    """
    Its worker was told to stop: no fault of the task, whose attempt does not count.

    But not for ever: it may be the task that has its worker stopped, each time.
    """
    interrupted = task.history.filter(outcome=AttemptOutcome.INTERRUPTED).count()
    if interrupted >= get_settings().max_attempts:
        return _after_loss(task)
    return {"status": Status.READY, "attempts": max(task.attempts - 1, 0)}


def _after_timeout(task: Task) -> dict[str, Any]:
    if not task.has_attempts_left:
        return {"status": Status.FAILED}
    rule = registry.find(task.task_name).backoff if registry.knows(task.task_name) else None
    try:
        wait = backoff(task.attempts, rule, get_settings().retry_jitter)
    except Exception:  # The rule is user code; the default one never fails.
        wait = backoff(task.attempts)
    return {"status": Status.SCHEDULED, "run_at": Clock(wait)}


def _cancelled() -> Failure:
    return plain_failure("bgtask.Cancelled", "The task was cancelled by force as it ran.")


def _lost(task: Task, reason: str) -> Failure:
    what = f"The task was lost with its worker {task.last_worker}"
    return plain_failure("bgtask.WorkerLost", f"{what}: {reason}." if reason else f"{what}.")


def _interrupted(task: Task, reason: str) -> Failure:
    what = f"The task was interrupted: its worker {task.last_worker} was stopped, and left it"
    return plain_failure("bgtask.Interrupted", f"{what}: {reason}." if reason else f"{what}.")


def _timed_out(task: Task) -> Failure:
    limit = task.seconds_allowed
    return plain_failure(
        "bgtask.TimedOut", f"The task ran longer than its {limit:g} seconds of MAX_RUN_TIME."
    )
