"""
Enqueue the tasks of the slots that are due.

Each schedule is decided by one guarded UPDATE, in the transaction that stores its slots and their
tasks. A process that dies in between leaves nothing behind, and the next one decides again. A
process that comes second finds ``next_at`` moved on, and does nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from django.db import Error, connections
from django.db.models import Q

from bgtask import context, registry
from bgtask.db import DatabaseNow, SecondsSince, again_after_deadlock, is_about_data
from bgtask.db.routing import queue_alias, writing
from bgtask.exceptions import AlreadyThere, UnknownTask
from bgtask.loggers import get_logger, is_worth_logging
from bgtask.models import Schedule, Slot, Task
from bgtask.models.schedule import Decision, Overlap, ScheduleQuerySet, Source
from bgtask.schedules import decide
from bgtask.schedules.decide import Plan
from bgtask.schedules.declarations import declarations
from bgtask.schedules.definition import Definition, as_stored, in_utc, now_in_utc
from bgtask.serialization import load_params

logger = get_logger(__name__)

PAGE_ROWS = 50  # Schedules that one transaction decides.
MAX_KEYS = 1_000  # A thousand parameters are within the limits of every database.

# How often each schedule could not be decided, since it is tried again and again.
_failures: Counter[int] = Counter()


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
        # A schedule that catches up with many slots comes again, since its next slot is due too.
        if ours := [row for row in page if _may_fire(row)]:
            total += _fire_page(ours, now_in_utc(), worker)
    return total


def seconds_to_next(*, from_now: bool = False) -> float | None:
    """
    Return the seconds until the next slot that this process may fire, or None.

    They are 0 or less if a slot is due. With ``from_now``, leave out such slots. If one is due
    after ``fire_due``, another process has it, or it can't be decided.
    """
    begin = {"next_at__gt": DatabaseNow()} if from_now else {"next_at__isnull": False}
    following = _fireable(Schedule.objects.active().filter(**begin))
    waited = (
        following.order_by("next_at", "id")
        .annotate(waited=SecondsSince("next_at"))
        .values_list("waited", flat=True)
        .first()
    )
    return None if waited is None else -float(waited)


def fire_locked(schedule: Schedule, now: datetime) -> None:
    """
    Decide what is due of a schedule that the caller has locked, by its stored definition.

    If its slots can't be decided, log why and leave them out, since the caller may correct it.
    """
    if not schedule.is_active:
        return
    try:
        with writing(queue_alias()):
            _fire([schedule], now, "")
    except Exception as error:
        if _is_outage(error):
            raise
        logger.exception("The slots of schedule %s that are due can't be decided.", schedule)
        schedule.refresh_from_db()


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
    connection = connections[queue_alias()]
    try:
        return again_after_deadlock(connection, partial(_fire_locked, page, now, worker))
    except Exception as error:
        if _is_outage(error):
            raise
        if len(page) > 1:
            return sum(_fire_page([schedule], now, worker) for schedule in page)
        _failures[page[0].pk] += 1
        if is_worth_logging(_failures[page[0].pk]):
            logger.exception("The slots of schedule %s can't be decided. Correct it.", page[0])
        return 0


def _is_outage(error: Exception) -> bool:
    return isinstance(error, Error) and not is_about_data(error)


def _fire_locked(page: Sequence[Schedule], now: datetime, worker: str) -> int:
    """
    Lock these schedules and decide their slots. Skip those that another process has locked.

    Lock them by their keys and in this order. An UPDATE that also names ``next_at`` may lock its
    index first, and could deadlock with an edit.
    """
    can_skip = connections[queue_alias()].features.has_select_for_update_skip_locked
    rows = Schedule.objects.filter(pk__in=[schedule.pk for schedule in page]).order_by("pk")
    with writing(queue_alias()):
        return _fire(list(rows.select_for_update(skip_locked=can_skip)), now, worker)


def _fire(page: Sequence[Schedule], now: datetime, worker: str) -> int:
    """
    Decide the slots of these schedules, in the caller's transaction.

    Return how many schedules were ours to decide. The lock of each keeps others from deciding the
    same slots.
    """
    ours = [(schedule, plan) for schedule in page if (plan := _take(schedule, now))]
    if ours:
        _carry_out(ours, worker)
    return len(ours)


def _take(schedule: Schedule, now: datetime) -> Plan | None:
    """Move the schedule on by one guarded UPDATE. Return what to do, or None if it isn't ours."""
    if schedule.next_at is None or (next_at := in_utc(schedule.next_at)) > now:
        return None
    timetable = Definition.of(schedule).timetable
    plan = decide.plan(timetable, schedule.misfire, schedule.grace, next_at, now)
    ours = Schedule.objects.active().filter(
        pk=schedule.pk, next_at=schedule.next_at, revision=schedule.revision
    )
    following, last = as_stored(plan.next_at), as_stored(plan.decided[-1].slot)
    if not ours.update(next_at=following, last_slot=last):
        return None
    schedule.next_at, schedule.last_slot = following, last
    return plan


def _carry_out(ours: Sequence[tuple[Schedule, Plan]], worker: str) -> None:
    """
    Store the slots that nobody has decided before, and the tasks for them.

    If the clock was set back, some of the slots are there already.
    """
    wanted = [as_stored(one.slot) for _, plan in ours for one in plan.decided]
    schedules = [schedule for schedule, _ in ours]
    known = set(
        Slot.objects.filter(schedule__in=schedules, slot__in=set(wanted)).values_list(
            "schedule_id", "slot"
        )
    )
    last_tasks = {schedule.last_task for schedule in schedules} - {None}
    live = set(Task.objects.live().filter(pk__in=last_tasks).values_list("pk", flat=True))
    slots = []
    moved = []
    for schedule, plan in ours:
        before = schedule.last_task
        for one in plan.decided:
            slot = as_stored(one.slot)
            if (schedule.pk, slot) in known:
                continue
            decision, task = one.decision, None
            if decision == Decision.ENQUEUED:
                decision, task = _enqueue(schedule, one.slot, live)
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
        if schedule.last_task != before:
            moved.append(schedule)
    Slot.objects.bulk_create(slots)
    Schedule.objects.bulk_update(moved, ["last_task"])


def _enqueue(schedule: Schedule, slot: datetime, live: set[int]) -> tuple[Decision, int | None]:
    """Return the decision about the slot, and its task. ``live`` are last tasks that are live."""
    last = schedule.last_task
    if last in live and schedule.overlap == Overlap.SKIP:
        return Decision.BUSY, last
    if last in live and schedule.overlap == Overlap.CANCEL:
        Task.objects.filter(pk=last).cancel()
    try:
        task = _store(schedule, slot)
    except AlreadyThere as error:
        return Decision.BUSY, error.task_id
    if task.was_there:  # The function is unique, and another call of it is there.
        return Decision.BUSY, task.pk
    schedule.last_task = task.pk
    live.add(task.pk)
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
