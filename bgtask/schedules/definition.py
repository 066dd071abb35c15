"""Define what a schedule says: when, what, and what happens to slots that are missed or overlap."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from bgtask.db.routing import database_now, queue_alias
from bgtask.exceptions import InvalidOption
from bgtask.models import Schedule
from bgtask.models.schedule import Kind, Misfire, Overlap
from bgtask.options import check_choice, check_options, check_schedule
from bgtask.schedules.cron import check_cron
from bgtask.schedules.timetable import Timetable, check_interval, check_zone
from bgtask.values import as_text, brief

MAX_JITTER_SECONDS = 86_400
MAX_GRACE_SECONDS = 7 * 86_400


@dataclass(frozen=True, kw_only=True)
class Definition:
    """
    What a schedule says, as plain values that JSON can hold. The names are those of its columns.

    ``start_at`` and ``end_at`` are times in UTC in ISO 8601, or None.
    """

    task_name: str
    task_params: str
    kind: str
    expression: str
    time_zone: str = ""
    start_at: str | None = None
    end_at: str | None = None
    queue: str | None = None
    priority: int | None = None
    jitter: int = 0
    misfire: str = Misfire.ONE.value
    grace: int = 60
    overlap: str = Overlap.SKIP.value

    @property
    def timetable(self) -> Timetable:
        return Timetable(
            self.kind,
            self.expression,
            check_zone(self.time_zone),
            _from_text(self.start_at),
            _from_text(self.end_at),
        )

    @property
    def columns(self) -> dict[str, Any]:
        """Return the values of the columns of a row."""
        values = asdict(self)
        for name in ("start_at", "end_at"):
            values[name] = as_stored(_from_text(values[name]))
        return values

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Definition:
        return cls(**json.loads(text))

    @classmethod
    def of(cls, schedule: Schedule) -> Definition:
        """Return the definition by which the schedule fires."""
        values = {field.name: getattr(schedule, field.name) for field in fields(cls)}
        for name in ("start_at", "end_at"):
            values[name] = values[name] and in_utc(values[name]).isoformat()
        return cls(**values)


def check_definition(
    task_name: str,
    task_params: str,
    *,
    cron: Any = None,
    every: Any = None,
    at: Any = None,
    time_zone: Any = None,
    start: Any = None,
    end: Any = None,
    jitter: Any = None,
    misfire: Any = None,
    grace: Any = None,
    overlap: Any = None,
    queue: Any = None,
    priority: Any = None,
) -> Definition:
    """
    Return the definition with plain values.

    Raise InvalidOption, with the name of the option, if one is wrong. Whether there is a slot at
    all depends on the time, so ``check_has_slots`` tells that.
    """
    kind, expression = _kind_and_expression(cron, every, at)
    name = _zone_name(time_zone)
    start_at, end_at = _moment(start, "start"), _moment(end, "end")
    if start_at is not None and end_at is not None and end_at <= start_at:
        raise InvalidOption(f"end={brief(end)} is not after start={brief(start)}.")
    checked = check_options({"queue": queue, "priority": priority})
    return Definition(
        task_name=task_name,
        task_params=task_params,
        kind=kind,
        expression=expression,
        time_zone=name,
        start_at=None if start_at is None else start_at.isoformat(),
        end_at=None if end_at is None else end_at.isoformat(),
        queue=checked["queue"],
        priority=None if priority is None else checked["priority"],
        jitter=_seconds(jitter, "jitter", 0, MAX_JITTER_SECONDS),
        misfire=check_choice(misfire, "misfire", Misfire.values) or Misfire.ONE.value,
        grace=_seconds(grace, "grace", 60, MAX_GRACE_SECONDS),
        overlap=check_choice(overlap, "overlap", Overlap.values) or Overlap.SKIP.value,
    )


def as_stored(moment: datetime | None) -> datetime | None:
    """Return an aware time as a column holds it: naive without USE_TZ."""
    if moment is None or settings.USE_TZ:
        return moment
    return timezone.make_naive(moment, timezone.get_default_timezone())


def in_utc(moment: datetime) -> datetime:
    """Return the time of a column in UTC. Without USE_TZ, it is in TIME_ZONE."""
    if timezone.is_naive(moment):
        moment = timezone.make_aware(moment, timezone.get_default_timezone())
    return moment.astimezone(UTC)


def now_in_utc() -> datetime:
    """Return the time of the database's clock in UTC."""
    return in_utc(database_now(queue_alias()))


def _from_text(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _kind_and_expression(cron: Any, every: Any, at: Any) -> tuple[str, str]:
    given = [
        name for name, one in (("cron", cron), ("every", every), ("at", at)) if one is not None
    ]
    if len(given) != 1:
        found = " and ".join(f"{name}=" for name in given) or "none of them"
        raise InvalidOption(f"Give exactly one of cron=, every= and at=, not {found}.")
    if cron is not None:
        text = as_text(cron)
        if text is None or len(text) > 255:
            raise InvalidOption(f"cron={brief(cron)} is not a cron expression.")
        return Kind.CRON.value, check_cron(text)
    if every is not None:
        return Kind.EVERY.value, _interval(every)
    moment = _moment(at, "at")
    return Kind.AT.value, "" if moment is None else moment.isoformat()


def _interval(every: Any) -> str:
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidOption(f"every takes seconds or a timedelta, not {brief(every)}.")
    check_interval(seconds)
    return repr(int(seconds) if seconds == int(seconds) else float(seconds))


def _zone_name(value: Any) -> str:
    if value is None or value == "":
        return ""
    key = getattr(value, "key", None)  # A ZoneInfo.
    name = as_text(value) if key is None else as_text(key)
    if name is None or len(name) > 64:
        raise InvalidOption(f"time_zone={brief(value)} is not the name of a time zone.")
    check_zone(name)
    return name


def _moment(value: Any, name: str) -> datetime | None:
    """Return a time in UTC. A naive one is in the current time zone."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidOption(f"{name} takes a datetime, not {brief(value)}.")
    checked = check_schedule(value, name)
    return in_utc(checked) if isinstance(checked, datetime) else None


def _seconds(value: Any, name: str, default: int, most: int) -> int:
    if value is None:
        return default
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidOption(f"{name} takes seconds or a timedelta, not {brief(value)}.")
    if not 0 <= seconds <= most or seconds != int(seconds):
        raise InvalidOption(f"{name}={brief(value)} must be a whole number from 0 to {most:,}.")
    return int(seconds)
