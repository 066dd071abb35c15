"""The page "Upcoming": what schedules and waiting tasks will do in the next 24 hours."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from bgtask.exceptions import InvalidOption
from bgtask.models import Schedule, Task
from bgtask.models.schedule import Kind
from bgtask.schedules.definition import Definition, as_stored, in_utc, now_in_utc
from bgtask.schedules.timetable import Timetable
from bgtask_admin.permissions import VIEW, VIEW_SCHEDULE
from bgtask_admin.ui.formatting import count
from bgtask_admin.ui.pages import page, permission_required

HOURS = 24
MAX_SCHEDULES = 200  # The schedules whose next slots come first.
MAX_TASKS = 10_000  # The tasks that are due first.
MAX_COUNTED = 3_600  # Slots of one schedule in an hour, since an interval is 1 s or more.
MAX_NAMED = 8  # Schedules that one hour names.


@dataclass
class Entry:
    """The slots of one schedule within an hour."""

    schedule: Schedule
    number: int
    first: datetime


@dataclass
class Hour:
    begins: datetime
    entries: list[Entry] = field(default_factory=list)
    tasks: str = ""
    has_tasks: bool = False

    @property
    def named(self) -> list[Entry]:
        return self.entries[:MAX_NAMED]

    @property
    def others(self) -> int:
        return max(len(self.entries) - MAX_NAMED, 0)


@permission_required(any_of=(VIEW, VIEW_SCHEDULE))
def upcoming(request: HttpRequest, site: AdminSite) -> HttpResponse:
    now = now_in_utc()
    may_view, may_view_schedules = (request.user.has_perm(one) for one in (VIEW, VIEW_SCHEDULE))
    hours, omitted = _hours(now, may_view_schedules)
    is_cut = _add_tasks(hours, now) if may_view else False
    return page(
        request,
        site,
        "schedules/upcoming.html",
        title=_("Upcoming"),
        nav="upcoming",
        hours=[hour for hour in hours.values() if hour.entries or hour.has_tasks],
        omitted=omitted,
        is_cut=is_cut,
        most=count(MAX_TASKS),
        shows_tasks=may_view,
        shows_schedules=may_view_schedules,
    )


def _hours(now: datetime, with_schedules: bool) -> tuple[dict[datetime, Hour], int]:
    """Return the next hours with their slots, and how many schedules are left out."""
    first = now.replace(minute=0, second=0, microsecond=0)
    begins = [first + timedelta(hours=number) for number in range(HOURS + 1)]
    hours = {begin: Hour(as_stored(begin) or begin) for begin in begins}
    if not with_schedules:
        return hours, 0
    end = now + timedelta(hours=HOURS)
    active = Schedule.objects.active().filter(next_at__lte=as_stored(end)).order_by("next_at")
    rows = list(active[: MAX_SCHEDULES + 1])
    for schedule in rows[:MAX_SCHEDULES]:
        for begin, (number, slot) in _by_hour(schedule, now, end).items():
            hours[begin].entries.append(Entry(schedule, number, as_stored(slot) or slot))
    for hour in hours.values():
        hour.entries.sort(key=lambda entry: (entry.first, entry.schedule.key))
    return hours, active.count() - MAX_SCHEDULES if len(rows) > MAX_SCHEDULES else 0


def _by_hour(
    schedule: Schedule, now: datetime, end: datetime
) -> dict[datetime, tuple[int, datetime]]:
    """Return the number of slots and the first one, by hour."""
    try:
        timetable = Definition.of(schedule).timetable
        if timetable.kind == Kind.EVERY:
            return _intervals_by_hour(timetable, now, end)
        slots = list(timetable.slots(now, end))  # At most one a minute.
    except InvalidOption:  # The row was edited by hand.
        return {}
    numbers: Counter[datetime] = Counter()
    firsts: dict[datetime, datetime] = {}
    for slot in slots:
        begin = slot.replace(minute=0, second=0, microsecond=0)
        numbers[begin] += 1
        firsts.setdefault(begin, slot)
    return {begin: (numbers[begin], firsts[begin]) for begin in firsts}


def _intervals_by_hour(
    timetable: Timetable, now: datetime, end: datetime
) -> dict[datetime, tuple[int, datetime]]:
    """Count without walking through the slots, since there may be one each second."""
    found = {}
    after = now
    while (slot := timetable.after(after)) is not None and slot <= end:
        begin = slot.replace(minute=0, second=0, microsecond=0)
        last = min(begin + timedelta(hours=1, microseconds=-1), end)
        found[begin] = timetable.count(after, last, MAX_COUNTED), slot
        after = last
    return found


def _add_tasks(hours: dict[datetime, Hour], now: datetime) -> bool:
    """Add the number of scheduled tasks that are due in each hour. Return whether it was cut."""
    end = max(hours) + timedelta(hours=1)
    due = Task.objects.scheduled().filter(run_at__lt=as_stored(end)).order_by("run_at", "pk")
    moments = list(due.values_list("run_at", flat=True)[: MAX_TASKS + 1])
    numbers: dict[datetime, int] = defaultdict(int)
    first = min(hours)
    for moment in moments[:MAX_TASKS]:
        begin = in_utc(moment).replace(minute=0, second=0, microsecond=0)
        numbers[max(begin, first)] += 1
    for begin, number in numbers.items():
        hours[begin].tasks, hours[begin].has_tasks = count(number), True
    return len(moments) > MAX_TASKS
