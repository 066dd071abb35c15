"""Change schedules as operators do. Each change is one transaction, and locks the row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db.models import F

from bgtask import registry
from bgtask.db import DatabaseNow
from bgtask.db.routing import queue_alias, writing
from bgtask.exceptions import InvalidOption, UnknownTask
from bgtask.models import Schedule, Slot, hooks
from bgtask.models.schedule import Source
from bgtask.schedules.declarations import check_key
from bgtask.schedules.definition import Definition, as_stored, check_definition, now_in_utc
from bgtask.schedules.fire import fire_locked
from bgtask.schedules.timetable import check_has_slots
from bgtask.serialization import dump_params


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
        now = now_in_utc()
        fire_locked(schedule, now)
        yield schedule, now


def create(key: str, definition: Definition) -> Schedule:
    """Store a schedule that no code declares. Raise InvalidOption if the key is taken."""
    key = check_key(key)
    now = now_in_utc()
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
    check_has_slots(definition.timetable, now_in_utc())
    with locked(_same(schedule)) as found:
        if found is None:
            return False
        row, now = found
        if row.source == Source.CODE:
            row.overridden_at, row.overridden_by = as_stored(now), by
        write_locked(row, definition, now)
    return True


def restore(schedule: Schedule) -> bool:
    """Go back to the definition of the code; return whether the schedule was overridden."""
    with locked(_same(schedule)) as found:
        if found is None or not found[0].is_overridden or not found[0].declared:
            return False
        row, now = found
        row.overridden_at, row.overridden_by = None, ""
        write_locked(row, Definition.from_json(row.declared), now)
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
        write_locked(row, Definition.of(row), now_in_utc())
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


def write_locked(schedule: Schedule, definition: Definition, now: datetime) -> None:
    """
    Write the definition into a locked row. Its next slot is the first after ``now``.

    The slots until then are decided. A later time would leave out a slot in between.
    """
    for name, value in definition.columns.items():
        setattr(schedule, name, value)
    schedule.next_at = as_stored(definition.timetable.after(now))
    schedule.revision += 1
    schedule.save()


def _create_from_call(key: str, name: str, args: Any, kwargs: Any, **options: Any) -> Schedule:
    params = checked_params(name, list(args), dict(kwargs))
    return create(key, check_definition(name, params, **options))


hooks.create_schedule = _create_from_call
