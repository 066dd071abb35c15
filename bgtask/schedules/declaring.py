"""Store the schedules of the code, and retire those that no code declares any more."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bgtask.db import DatabaseNow
from bgtask.exceptions import InvalidOption
from bgtask.loggers import get_logger
from bgtask.models import Schedule
from bgtask.models.schedule import Source
from bgtask.schedules.declarations import Declaration, declarations
from bgtask.schedules.definition import Definition, as_stored, now_in_utc
from bgtask.schedules.edit import locked, write_locked

logger = get_logger(__name__)

PAGE_ROWS = 500
RETIRE_SECONDS = 86_400  # A schedule that nobody has declared for so long is retired.
AHEAD_SECONDS = 60  # If the last slot is further ahead, the clock was set back.


def declare() -> None:
    """
    Store the schedules that this process declares: new ones, and definitions that have changed.

    A schedule that an operator has overridden keeps its definition. A declaration that can't be
    stored is logged, and keeps neither the others nor the worker.
    """
    known = declarations()
    keys = sorted(known)
    for start in range(0, len(keys), PAGE_ROWS):
        _declare_page([known[key] for key in keys[start : start + PAGE_ROWS]])


def refresh() -> None:
    """Say that the schedules of this process are still declared."""
    keys = sorted(declarations())
    for start in range(0, len(keys), PAGE_ROWS):
        _of_code(keys[start : start + PAGE_ROWS]).update(declared_at=DatabaseNow())


def retire() -> int:
    """Retire the schedules of code that nobody has declared for a day; return how many."""
    gone = Schedule.objects.filter(
        source=Source.CODE, retired_at=None, declared_at__lt=DatabaseNow(-RETIRE_SECONDS)
    )
    # Look first, since an UPDATE takes the write lock of SQLite even if it changes no row.
    return int(gone.update(retired_at=DatabaseNow())) if gone.exists() else 0


def recompute_next_slots() -> int:
    """
    Compute ``next_at`` again where the clock was set back by more than a minute; return how many.

    The slots that were decided already stay decided.
    """
    total = 0
    ahead = Schedule.objects.active().filter(last_slot__gt=DatabaseNow(AHEAD_SECONDS))
    for schedule in list(ahead):
        try:
            following = as_stored(Definition.of(schedule).timetable.after(now_in_utc()))
        except InvalidOption as error:
            logger.error("The next slot of schedule %s can't be computed: %s", schedule, error)
            continue
        ours = Schedule.objects.filter(
            pk=schedule.pk, next_at=schedule.next_at, revision=schedule.revision
        )
        if following != schedule.next_at:
            total += ours.update(next_at=following)
    return total


def _declare_page(page: list[Declaration]) -> None:
    keys = [one.key for one in page]
    stored = {row.key: row for row in Schedule.objects.filter(key__in=keys)}
    now = now_in_utc()
    new = []
    for one in page:
        row = stored.get(one.key)
        try:
            if row is None:
                new.append(_row_of(one, now))
            elif row.source != Source.CODE:
                raise InvalidOption("the admin has a schedule with this key. Rename one of them.")
            elif row.declared != one.definition.as_json() or row.retired_at is not None:
                _declare_again(one)
        except InvalidOption as error:
            logger.error(
                "The schedule %s of the code (%s) can't be used: %s", one.key, one.place, error
            )
    Schedule.objects.bulk_create(new, ignore_conflicts=True)  # Another worker may be faster.
    _of_code(keys).update(declared_at=DatabaseNow())


def _of_code(keys: list[str]) -> Any:
    return Schedule.objects.filter(source=Source.CODE, key__in=keys)


def _row_of(one: Declaration, now: datetime) -> Schedule:
    return Schedule(
        key=one.key,
        source=Source.CODE,
        declared=one.definition.as_json(),
        declared_at=DatabaseNow(),
        next_at=as_stored(one.definition.timetable.after(now)),
        **one.definition.columns,
    )


def _declare_again(one: Declaration) -> None:
    with locked(Schedule.objects.filter(key=one.key, source=Source.CODE)) as found:
        text = one.definition.as_json()
        if found is None or (found[0].declared == text and found[0].retired_at is None):
            return
        schedule, now = found
        schedule.declared = text
        schedule.retired_at = None
        definition = Definition.of(schedule) if schedule.is_overridden else one.definition
        write_locked(schedule, definition, now)
