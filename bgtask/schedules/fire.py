"""
Enqueue the tasks of the slots that are due.

Each schedule is decided by one guarded UPDATE, in the transaction that stores its slots and their
tasks. A process that dies in between leaves nothing behind, and the next one decides again. A
process that comes second finds ``next_at`` moved on, and does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import Error
from django.db.models import Q

from bgtask import context, registry
from bgtask.db import DatabaseNow, SecondsSince, is_about_data
from bgtask.db.routing import database_now, queue_alias, writing
from bgtask.exceptions import UnknownTask
from bgtask.loggers import get_logger
from bgtask.models import Schedule, Slot, Task
from bgtask.models.schedule import Decision, Overlap, ScheduleQuerySet, Source
from bgtask.schedules import decide
from bgtask.schedules.decide import Decided
from bgtask.schedules.declarations import declarations
from bgtask.schedules.definition import Definition, as_stored, in_utc
from bgtask.serialization import load_params

logger = get_logger(__name__)

PAGE_ROWS = 50  # Schedules that one transaction decides.
MAX_KEYS = 1_000  # A thousand parameters are within the limits of every database.


def fire_due(worker: str = "") -> int:
    """
    Decide the slots that are due, of all schedules that this process may fire.

    Return the number of schedules that it decided. ``worker`` is the label to store with the
    decisions. A schedule that can't be decided is logged, and does not keep others.
    """
    total = 0
    last: tuple[datetime | None, int] = None, 0
    while page := _page(*last):
        last = page[-1].next_at, page[-1].pk
        now = in_utc(database_now(queue_alias()))
        total += _fire_page([row for row in page if _may_fire(row)], now, worker)
        if len(page) < PAGE_ROWS:
            break
    return total


def seconds_to_next() -> float | None:
    """Return the seconds until the next slot that this process may fire, or None."""
    following = _fireable(Schedule.objects.active().filter(next_at__isnull=False))
    waited = (
        following.order_by("next_at", "id")
        .annotate(waited=SecondsSince("next_at"))
        .values_list("waited", flat=True)
        .first()
    )
    return None if waited is None else -float(waited)


def fire_locked(schedule: Schedule, now: datetime, worker: str = "") -> None:
    """Decide what is due of a schedule that the caller has locked, by its stored definition."""
    if schedule.is_active and schedule.next_at is not None and in_utc(schedule.next_at) <= now:
        _fire(schedule, now, worker)


def enqueue_by_hand(schedule: Schedule, worker: str = "") -> Task:
    """Enqueue a task of the schedule now, beside its slots."""
    with writing(queue_alias()):
        task = _store(schedule, None)
        Slot.objects.create(
            schedule=schedule,
            decision=Decision.BY_HAND,
            task=task.pk,
            decided_at=DatabaseNow(),
            worker=worker,
        )
        Schedule.objects.filter(pk=schedule.pk).update(last_task=task.pk)
    return task


def slot_of(task_id: int) -> datetime | None:
    """Return the slot for which the task was enqueued, or None."""
    slots = Slot.objects.filter(task=task_id).exclude(decision=Decision.BUSY)
    return slots.values_list("slot", flat=True).first()  # type: ignore[no-any-return]


def _page(after: Any, last_id: int) -> list[Schedule]:
    due = _fireable(Schedule.objects.due())
    if after is not None:
        due = due.filter(Q(next_at__gt=after) | Q(next_at=after, pk__gt=last_id))
    return list(due[:PAGE_ROWS])


def _fireable(schedules: ScheduleQuerySet) -> ScheduleQuerySet:
    """Leave out the schedules of code that this process does not have, as far as SQL can tell."""
    keys = declarations().keys()
    if len(keys) > MAX_KEYS:
        return schedules
    return schedules.filter(Q(source=Source.ADMIN) | Q(key__in=sorted(keys)))


def _may_fire(schedule: Schedule) -> bool:
    return schedule.source == Source.ADMIN or schedule.key in declarations()


def _fire_page(page: Sequence[Schedule], now: datetime, worker: str) -> int:
    """Decide these schedules in one transaction, or one by one if one of them can't be decided."""
    try:
        with writing(queue_alias()):
            return sum(_fire(schedule, now, worker) for schedule in page)
    except Exception as error:
        if isinstance(error, Error) and not is_about_data(error):
            raise
        if len(page) > 1:
            return sum(_fire_page([schedule], now, worker) for schedule in page)
        logger.exception("The slots of schedule %s can't be decided. Correct it.", page[0])
        return 0


def _fire(schedule: Schedule, now: datetime, worker: str) -> bool:
    """Decide the slots of one schedule, in the caller's transaction. Return whether it was ours."""
    if schedule.next_at is None:
        return False
    timetable = Definition.of(schedule).timetable
    plan = decide.plan(timetable, schedule.misfire, schedule.grace, in_utc(schedule.next_at), now)
    ours = Schedule.objects.active().filter(
        pk=schedule.pk, next_at=schedule.next_at, revision=schedule.revision
    )
    last = plan.decided[-1].slot
    if not ours.update(next_at=as_stored(plan.next_at), last_slot=as_stored(last)):
        return False
    schedule.next_at, schedule.last_slot = as_stored(plan.next_at), as_stored(last)
    _carry_out(schedule, plan.decided, worker)
    return True


def _carry_out(schedule: Schedule, decided: Sequence[Decided], worker: str) -> None:
    """
    Store the slots that nobody has decided before, and the tasks for them.

    The caller has updated the schedule, so its lock keeps others from deciding the same slots. If
    the clock was set back, some of the slots are there already.
    """
    stored = [as_stored(one.slot) for one in decided]
    known = set(
        Slot.objects.filter(schedule=schedule, slot__in=stored).values_list("slot", flat=True)
    )
    before = schedule.last_task
    slots = []
    for one, slot in zip(decided, stored, strict=True):
        if slot in known:
            continue
        decision, task = one.decision, None
        if decision == Decision.ENQUEUED:
            decision, task = _enqueue(schedule, one.slot)
        slots.append(
            Slot(
                schedule=schedule,
                slot=slot,
                decision=decision,
                missed=one.missed,
                task=task,
                decided_at=DatabaseNow(),
                worker=worker,
            )
        )
    Slot.objects.bulk_create(slots)
    if schedule.last_task != before:
        Schedule.objects.filter(pk=schedule.pk).update(last_task=schedule.last_task)


def _enqueue(schedule: Schedule, slot: datetime) -> tuple[Decision, int | None]:
    """Return the decision about the slot, and the task that it is about."""
    if schedule.last_task is not None and schedule.overlap != Overlap.ALLOW:
        last = Task.objects.live().filter(pk=schedule.last_task)
        if schedule.overlap == Overlap.CANCEL:
            last.cancel()
        elif last.exists():
            return Decision.BUSY, schedule.last_task
    task = _store(schedule, slot)
    if task.was_there:  # The function is unique, and another call of it is there.
        return Decision.BUSY, task.pk
    schedule.last_task = task.pk
    return Decision.ENQUEUED, task.pk


def _store(schedule: Schedule, slot: datetime | None) -> Task:
    options: dict[str, Any] = {"schedule": None}
    if slot is not None:
        options["schedule"] = as_stored(decide.delayed(schedule.key, slot, schedule.jitter))
    if schedule.queue is not None:
        options["queue"] = schedule.queue
    if schedule.priority is not None:
        options["priority"] = schedule.priority
    args, kwargs = load_params(schedule.task_params)
    try:
        function = registry.find(schedule.task_name)
    except UnknownTask:  # A worker holds the task until one knows its function.
        return Task.objects.enqueue(schedule.task_name, args, kwargs, **options)
    task: Task = function.store(args, kwargs, **options)
    return task


context.find_slot = slot_of
