"""Rescue the tasks that dead workers hold, and the tasks that are past their deadline."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from django.db import DataError, IntegrityError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BooleanField, Case, Q, Value, When

from bgtask.conf import get_settings
from bgtask.db import DatabaseNow, is_about_data, operations_for
from bgtask.db.functions import key_of_finished, raised_token
from bgtask.db.sql import COUNT_MAX, TOKEN_CEILING, as_count
from bgtask.failures import Failure, plain_failure
from bgtask.lifecycle.attempts import Outcome, build_attempt, record_attempts
from bgtask.loggers import get_logger
from bgtask.models import Task, TaskQuerySet, hooks
from bgtask.retries import delay_after
from bgtask.status import AttemptOutcome, Status, WorkerState

logger = get_logger(__name__)

PAGE_ROWS = 200

# Columns that a rescue does not read. They may be large, or hold a date that was edited by hand
# and that Python can't represent.
_UNREAD = (
    "run_at", "enqueued_at", "started_at", "finished_at", "task_params", "last_error",
    "error_message", "return_value", "result_id",
)  # fmt: skip


def rescue_tasks(
    tasks: TaskQuerySet | None = None,
    reason: str = "",
    on_rescued: Callable[[list[Outcome]], object] | None = None,
    *,
    by_force: bool = False,
) -> int:
    """
    Rescue, among these tasks or all, those of dead workers and those past their deadline.

    Return how many. ``reason`` is why the dead workers died. With ``by_force``, cancel all of
    these tasks that run. The tasks are first found without a lock, since there is nearly always
    nothing to do. Then one transaction locks each page, decides again and changes the tasks, with
    the rows of history. ``on_rescued`` is called after each page, so that the committed pages are
    reported even if a later page fails.
    """
    tasks = Task.objects.all() if tasks is None else tasks
    connection = connections[tasks.db]
    total = last = 0
    while page := _find(tasks, after=last, all_running=by_force):
        rescued = _rescue_page(tasks, connection, page, reason, by_force)
        if on_rescued is not None and rescued:
            on_rescued(rescued)
        total += len(rescued)
        last = page[-1].task
        if len(page) < PAGE_ROWS:
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
    Rescue a page in one transaction, or row by row if a row can't be read or written.

    A row that was edited by hand must not keep the other tasks from being rescued. Return the
    outcomes of the rescued tasks.
    """
    try:
        with operations_for(connection).transaction(connection):
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
    # A worker never leaves the DEAD state, so the fates from the page can't be stale.
    fates = {row.worker: row.fate for row in page if row.fate}
    # Skip a task that another rescue or an operator has locked, and leave the task to them.
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
    """A task to rescue, and the worker that holds it."""

    task: int
    worker: int | None
    state: str
    stopped_at: datetime | None

    @property
    def fate(self) -> AttemptOutcome | None:
        """Return the outcome that follows from how the worker died, or None if it isn't dead."""
        if self.state != WorkerState.DEAD:
            return None
        return AttemptOutcome.LOST if self.stopped_at is None else AttemptOutcome.INTERRUPTED


def _find(tasks: TaskQuerySet, after: int, all_running: bool) -> list[_Found]:
    running = tasks.filter(status=Status.RUNNING, pk__gt=after)
    if not all_running:
        running = running.filter(
            Q(locked_by__state=WorkerState.DEAD) | Q(deadline_at__lte=DatabaseNow())
        )
    found = running.order_by("pk").values_list(
        "pk", "locked_by", "locked_by__state", "locked_by__stopped_at"
    )
    return [_Found(*row) for row in found[:PAGE_ROWS]]


def _is_overdue() -> Case:
    return Case(
        When(deadline_at__lte=DatabaseNow(), then=Value(True)),
        default=Value(False),
        output_field=BooleanField(),
    )


def _take_back(tasks: TaskQuerySet, task: Task, kind: AttemptOutcome, reason: str) -> list[Outcome]:
    """
    Rescue one locked task by one guarded UPDATE, and store its row of history.

    Return a list of its outcome, or an empty list if the UPDATE no longer matched.
    """
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
        changes |= {"finished_at": DatabaseNow(), "unique_key": key_of_finished()}
    if changes["status"] != Status.READY:
        changes |= {
            "last_error": failure.traceback,
            "error_message": failure.message,
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
    record_attempts(tasks.db, [build_attempt(task, kind, failure, task.locked_at, DatabaseNow())])
    return [Outcome(task, changes["status"], failure=failure, kind=kind)]


def _after_loss(task: Task) -> dict[str, Any]:
    """
    Return the changes to a task whose worker died without being told to stop.

    A task that was no suspect gets its attempt back, since it may never have started. A suspect
    ran alone, so its attempt counts. A task fails after MAX_CRASHES crashes. A suspect also fails
    if its attempts are used up.
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
    Return the changes to a task whose worker was told to stop.

    The task is not at fault, so its attempt does not count. After MAX_ATTEMPTS interruptions the
    task is treated as lost, since it may itself be the reason why its worker is stopped each time.
    """
    interrupted = task.history.filter(outcome=AttemptOutcome.INTERRUPTED).count()
    if interrupted >= get_settings().max_attempts:
        return _after_loss(task)
    return {"status": Status.READY, "attempts": max(task.attempts - 1, 0)}


def _after_timeout(task: Task) -> dict[str, Any]:
    if not task.has_attempts_left:
        return {"status": Status.FAILED}
    return {"status": Status.SCHEDULED, "run_at": DatabaseNow(delay_after(task))}


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


def _cancel_running(tasks: TaskQuerySet) -> int:
    return rescue_tasks(tasks, by_force=True)


hooks.cancel_running = _cancel_running
