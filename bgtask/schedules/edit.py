"""Change schedules: declare those of the code, and do what operators ask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db.models import F

from bgtask import registry
from bgtask.db import DatabaseNow
from bgtask.db.routing import database_now, queue_alias, writing
from bgtask.exceptions import InvalidOption, UnknownTask
from bgtask.loggers import get_logger
from bgtask.models import Schedule, Slot
from bgtask.models.schedule import Source
from bgtask.schedules.declarations import Declaration, check_key, declarations
from bgtask.schedules.definition import Definition, as_stored, in_utc
from bgtask.schedules.fire import fire_locked
from bgtask.schedules.timetable import check_has_slots
from bgtask.serialization import dump_params

logger = get_logger(__name__)

PAGE_ROWS = 500
RETIRE_SECONDS = 86_400  # A schedule that nobody has declared for so long is retired.
AHEAD_SECONDS = 60  # If the last slot is further ahead, the clock was set back.


# The code


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
    return int(gone.update(retired_at=DatabaseNow()))


def heal_clock() -> int:
    """
    Reckon ``next_at`` again where the clock was set back by more than a minute; return how many.

    The slots that were decided already stay decided.
    """
    healed = 0
    ahead = Schedule.objects.active().filter(last_slot__gt=DatabaseNow(AHEAD_SECONDS))
    for schedule in list(ahead):
        try:
            following = as_stored(Definition.of(schedule).timetable.after(_now()))
        except (InvalidOption, ValueError) as error:
            logger.error("The next slot of schedule %s can't be reckoned: %s", schedule, error)
            continue
        ours = Schedule.objects.filter(
            pk=schedule.pk, next_at=schedule.next_at, revision=schedule.revision
        )
        if following != schedule.next_at:
            healed += ours.update(next_at=following)
    return healed


def _declare_page(page: list[Declaration]) -> None:
    keys = [one.key for one in page]
    stored = {row.key: row for row in Schedule.objects.filter(key__in=keys)}
    now = _now()
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
        except (InvalidOption, ValueError) as error:
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
        _write(schedule, definition, now)


# Operators


def checked_params(task_name: str, args: Any, kwargs: Any) -> str:
    """
    Return the parameters as JSON.

    Raise InvalidOption if they are no list and no dictionary, can't be stored as JSON, or don't fit
    the function, if this process knows it.
    """
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise InvalidOption("The parameters are a list and an object in JSON.")
    try:
        function = registry.find(task_name)
    except UnknownTask:
        return dump_params(args, kwargs)
    try:
        function.bind(args, kwargs)
    except TypeError as error:
        raise InvalidOption(str(error)) from None
    return function.dump_params(args, kwargs)


@contextmanager
def locked(schedules: Any) -> Iterator[tuple[Schedule, datetime] | None]:
    """
    Lock a schedule for an edit, and decide its due slots before.

    Yield it, and the time until which it is decided, or None if it is gone.
    """
    with writing(queue_alias()):
        schedule = schedules.select_for_update().first()
        if schedule is None:
            yield None
            return
        now = _now()
        fire_locked(schedule, now)
        yield schedule, now


def create(key: str, definition: Definition) -> Schedule:
    """Store a schedule that no code declares. Raise InvalidOption if the key is taken."""
    key = check_key(key)
    now = _now()
    check_has_slots(definition.timetable, now)
    with writing(queue_alias()):
        if Schedule.objects.filter(key=key).exists():
            raise InvalidOption(f"There is a schedule with the key {key!r} already.")
        return Schedule.objects.create(  # type: ignore[no-any-return]
            key=key,
            source=Source.ADMIN,
            next_at=as_stored(definition.timetable.after(now)),
            **definition.columns,
        )


def change(schedule: Schedule, definition: Definition, by: str = "") -> bool:
    """
    Give the schedule another definition; return False if it is gone.

    This overrides the definition of a schedule of the code, until ``restore``.
    """
    check_has_slots(definition.timetable, _now())
    with locked(_same(schedule)) as found:
        if found is None:
            return False
        row, now = found
        if row.source == Source.CODE:
            row.overridden_at, row.overridden_by = as_stored(now), by
        _write(row, definition, now)
    return True


def restore(schedule: Schedule) -> bool:
    """Go back to the definition of the code; return whether the schedule was overridden."""
    with locked(_same(schedule)) as found:
        if found is None or not found[0].is_overridden or not found[0].declared:
            return False
        row, now = found
        row.overridden_at, row.overridden_by = None, ""
        _write(row, Definition.from_json(row.declared), now)
    return True


def pause(schedule: Schedule, by: str = "", reason: str = "") -> bool:
    """Stop the schedule from firing; return whether it was not paused."""
    return bool(
        _same(schedule)
        .filter(paused_at=None)
        .update(paused_at=DatabaseNow(), paused_by=by, reason=reason, revision=F("revision") + 1)
    )


def resume(schedule: Schedule) -> bool:
    """Let the schedule fire from its next slot on; return whether it was paused."""
    with writing(queue_alias()):
        row = _same(schedule).select_for_update().first()
        if row is None or row.paused_at is None:
            return False
        row.paused_at, row.paused_by, row.reason = None, "", ""
        _write(row, Definition.of(row), _now())
    return True


def delete(schedule: Schedule) -> bool:
    """Delete a schedule that no code declares; return whether it was deleted."""
    with writing(queue_alias()):
        ours = _same(schedule).filter(source=Source.ADMIN)
        if not ours.exists():
            return False
        Slot.objects.filter(schedule=schedule.pk).delete()
        return bool(ours.delete()[0])


def _same(schedule: Schedule) -> Any:
    return Schedule.objects.filter(pk=schedule.pk)


def _write(schedule: Schedule, definition: Definition, now: datetime) -> None:
    """
    Write the definition into a locked row. Its next slot is the first after ``now``.

    The slots until then are decided. A later time would leave out a slot in between.
    """
    for name, value in definition.columns.items():
        setattr(schedule, name, value)
    schedule.next_at = as_stored(definition.timetable.after(now))
    schedule.revision += 1
    schedule.save()


def _now() -> datetime:
    return in_utc(database_now(queue_alias()))


def prune_slots(age: float, after: int, keep: int = 100, limit: int = 1_000) -> tuple[int, int]:
    """
    Delete decisions that are older than ``age`` seconds, but not the last ones of a schedule.

    Look at ``limit`` rows from the id ``after`` on. Return how many were deleted, and the id to go
    on from, or 0 at the end.
    """
    rows = list(
        Slot.objects.filter(pk__gt=after, decided_at__lt=DatabaseNow(-age))
        .order_by("pk")
        .values_list("pk", "schedule")[:limit]
    )
    deleted = 0
    for schedule, ids in _by_schedule(rows):
        kept = Slot.objects.filter(schedule=schedule).order_by("-pk").values_list("pk", flat=True)
        first = next(iter(kept[keep - 1 : keep]), None)
        if first is not None:
            old = [id_ for id_ in ids if id_ < first]
            deleted += Slot.objects.filter(pk__in=old).delete()[0] if old else 0
    return deleted, rows[-1][0] if len(rows) == limit else 0


def _by_schedule(rows: Iterable[tuple[int, int]]) -> Iterable[tuple[int, list[int]]]:
    found: dict[int, list[int]] = {}
    for id_, schedule in rows:
        found.setdefault(schedule, []).append(id_)
    return found.items()
