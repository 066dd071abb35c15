"""The tables of schedules, and of the decisions about the slots of one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import django_tables2 as tables
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from bgtask.exceptions import InvalidOption
from bgtask.models import Schedule, Slot, Task
from bgtask.models.schedule import Decision, Kind, Source
from bgtask.schedules.decide import MAX_COUNTED
from bgtask.schedules.definition import Definition, in_utc
from bgtask.status import FINISHED, Status
from bgtask_admin.schedules.words import in_words, shown
from bgtask_admin.templatetags.bgtask_admin import status_badge
from bgtask_admin.ui import formatting
from bgtask_admin.ui.tables import DashboardTable

Facts = tuple[str, datetime | None, int | None]  # Status, first start and duration of a task.


def facts_of(ids: Sequence[int | None]) -> Mapping[int, Facts]:
    """Return the facts of those of these tasks that were not pruned."""
    rows = Task.objects.filter(pk__in={one for one in ids if one is not None}).values_list(
        "pk", "status", "started_at", "duration_ms"
    )
    return {pk: (status, started, duration) for pk, status, started, duration in rows}


def late_among(schedules: Sequence[Schedule]) -> set[int]:
    """Return the keys of those that are late, by the same rule as the verdict."""
    ids = [schedule.pk for schedule in schedules]
    return set(Schedule.objects.late().filter(pk__in=ids).values_list("pk", flat=True))


def badges(
    schedule: Schedule, now: datetime, late: Collection[int]
) -> list[tuple[str, str | Promise]]:
    """Return what is special about the schedule, as (CSS class, word)."""
    found: list[tuple[str, str | Promise]] = []
    if schedule.retired_at is not None:
        found.append(("cancelled", _("retired: no longer in the code")))
    if schedule.paused_at is not None:
        found.append(("held", _("paused")))
    if schedule.pk in late and schedule.next_at is not None:
        seconds = (now - schedule.next_at).total_seconds()
        found.append(("failed", gettext("late by %s") % formatting.whole_duration(seconds)))
    if schedule.is_overridden:
        found.append(("scheduled", _("overridden")))
    if schedule.next_at is None and schedule.is_active:
        found.append(("successful", _("ended")))
    return found


def words_of(schedule: Schedule) -> str:
    try:
        return in_words(Definition.of(schedule))
    except InvalidOption:  # The row was edited by hand.
        return schedule.expression


def in_its_zone(schedule: Schedule, moment: datetime) -> str:
    try:
        zone = Definition.of(schedule).timetable.zone
    except InvalidOption:
        return ""
    in_zone = shown(in_utc(moment), zone)
    return "" if in_zone == shown(in_utc(moment)) else f"{in_zone} {schedule.time_zone}"


class ScheduleTable(DashboardTable):
    key = tables.Column(verbose_name=_("Schedule"))
    when = tables.Column(accessor="expression", verbose_name=_("When"))
    next_at = tables.Column(verbose_name=_("Next"), empty_values=())
    last_slot = tables.Column(verbose_name=_("Last"), empty_values=())
    state = tables.Column(accessor="source", verbose_name=_("State"))
    actions = tables.Column(accessor="pk", verbose_name="", attrs={"td": {"class": "bg-actions"}})

    class Meta(DashboardTable.Meta):
        empty_text = _("No schedules. Declare one with @recurring in the code, or add one here.")
        attrs = {"class": "bg-table", "id": "result_list"}

    def __init__(self, rows: Sequence[Schedule], *, url: Any, now: datetime, rights: Any) -> None:
        self._url, self._now, self._rights = url, now, rights
        self._facts = facts_of([row.last_task for row in rows])
        self._late = late_among(rows)
        without = () if rights.run_schedule or rights.pause_schedule else ("actions",)
        super().__init__(rows, exclude=without)

    def render_key(self, record: Schedule) -> SafeString:
        return format_html(
            '<a class="bg-name" href="{}">{}</a><span class="bg-arguments">{}</span>',
            self._url("bgtask_schedule_change", record.pk),
            formatting.name(record.key),
            "" if record.key == record.task_name else formatting.name(record.task_name),
        )

    def render_when(self, record: Schedule) -> SafeString:
        words = words_of(record)
        expression = record.expression if record.kind == Kind.CRON else ""
        return format_html(
            '{}<span class="bg-arguments"><code>{}</code></span>',
            formatting.short(words, 160),
            formatting.short(expression, 80),
        )

    def render_next_at(self, record: Schedule) -> str | SafeString:
        if record.next_at is None or not record.is_active:
            return "–"
        return format_html(
            '{}<span class="bg-arguments">{}</span><span class="bg-arguments">{}</span>',
            formatting.moment(record.next_at, self._now),
            formatting.clock(record.next_at, self._now),
            in_its_zone(record, record.next_at),
        )

    def render_last_slot(self, record: Schedule) -> str | SafeString:
        if record.last_slot is None:
            return "–"
        return format_html(
            '{}<span class="bg-arguments">{}</span>',
            task_link(record.last_task, self._facts, self._url, self._rights),
            formatting.clock(record.last_slot, self._now),
        )

    def render_state(self, record: Schedule) -> SafeString:
        source = _("code") if record.source == Source.CODE else _("admin")
        marks = format_html_join(
            " ",
            '<span class="bg-status bg-status-{}">{}</span>',
            badges(record, self._now, self._late),
        )
        return format_html('{} <span class="bg-quiet">{}</span>', marks, source)

    def render_actions(self, record: Schedule) -> SafeString:
        buttons = []
        if self._rights.run_schedule:
            buttons.append((self._url("bgtask_admin_schedule_run", record.pk), _("Run now")))
        if self._rights.pause_schedule and record.paused_at is not None:
            buttons.append((self._url("bgtask_admin_schedule_resume", record.pk), _("Resume")))
        posts = format_html_join(
            " ",
            '<button class="bg-button" form="act" formaction="{}" aria-label="{}: {}">{}</button>',
            ((url, label, formatting.short(record.key, 60), label) for url, label in buttons),
        )
        if self._rights.pause_schedule and record.paused_at is None:
            return format_html(
                '{} <a class="bg-button" href="{}" aria-label="{}">{}</a>',
                posts,
                self._url("bgtask_admin_schedule_pause", record.pk),
                gettext("Pause %s") % formatting.short(record.key, 60),
                _("Pause…"),
            )
        return posts


def task_link(
    task: int | None, facts: Mapping[int, Facts], url: Any, rights: Any
) -> str | SafeString:
    """Return the status of the task, as a link to it, or words for a task that was pruned."""
    if task is None:
        return "–"
    if task not in facts:
        return format_html('<span class="bg-quiet">{}</span>', _("deleted"))
    badge = status_badge(facts[task][0])
    if not rights.view:
        return badge
    return format_html('<a href="{}">{}</a>', url("bgtask_task_change", task), badge)


class SlotTable(DashboardTable):
    slot = tables.Column(verbose_name=_("Slot"), empty_values=())
    decision = tables.Column(verbose_name=_("Decision"))
    task = tables.Column(verbose_name=_("Task"), empty_values=())
    wait = tables.Column(
        accessor="pk", verbose_name=_("Wait"), attrs={"td": {"class": "bg-number"}}
    )
    duration = tables.Column(
        accessor="pk", verbose_name=_("Duration"), attrs={"td": {"class": "bg-number"}}
    )
    worker = tables.Column(verbose_name=_("Decided by"), empty_values=())

    class Meta(DashboardTable.Meta):
        empty_text = _("No slot has been decided yet.")
        attrs = {"class": "bg-table"}

    def __init__(
        self, rows: Sequence[Slot], *, facts: Mapping[int, Facts], url: Any, rights: Any
    ) -> None:
        self._facts, self._url, self._rights = facts, url, rights
        super().__init__(rows)

    def render_slot(self, record: Slot) -> str | SafeString:
        return formatting.clock(record.slot or record.decided_at)

    def render_decision(self, record: Slot) -> str | SafeString:
        words = record.get_decision_display()
        if not record.missed:
            return str(words)
        number = f"{MAX_COUNTED:,}+" if record.missed > MAX_COUNTED else f"{record.missed:,}"
        return format_html(
            '{}<span class="bg-arguments">{}</span>',
            words,
            gettext("missed: %s") % number,
        )

    def render_task(self, record: Slot) -> str | SafeString:
        return task_link(record.task, self._facts, self._url, self._rights)

    def render_wait(self, record: Slot) -> str:
        started = self._of(record)[1]
        begin = record.slot or record.decided_at
        if started is None or record.decision == Decision.BUSY:
            return "–"
        return formatting.between(begin, started)

    def render_duration(self, record: Slot) -> str:
        milliseconds = self._of(record)[2]
        if milliseconds is None or record.decision == Decision.BUSY:
            return "–"
        return formatting.duration(milliseconds / 1000)

    def render_worker(self, record: Slot) -> str:
        return formatting.short(record.worker, 60) or "–"

    def _of(self, record: Slot) -> Facts:
        return self._facts.get(record.task or 0, ("", None, None))


@dataclass(frozen=True)
class Mark:
    """One mark of the strip: a decision as a colour, a sign and words."""

    css: str
    sign: str
    words: str


_SIGNS = {
    Status.SUCCESSFUL: ("successful", "✓"),
    Status.FAILED: ("failed", "✕"),
    Status.CANCELLED: ("cancelled", "–"),
}


def strip(slots: Sequence[Slot], facts: Mapping[int, Facts]) -> list[Mark]:
    """Return a mark for each of these decisions, the oldest first."""
    return [_mark(slot, facts) for slot in reversed(slots)]


def _mark(slot: Slot, facts: Mapping[int, Facts]) -> Mark:
    at = shown(in_utc(slot.slot or slot.decided_at))
    decision = str(slot.get_decision_display())
    if slot.decision == Decision.MISSED:
        return Mark("missed", "!", f"{at}: {decision}")
    if slot.decision == Decision.BUSY:
        return Mark("busy", "·", f"{at}: {decision}")
    status = facts.get(slot.task or 0, ("", None, None))[0]
    if status in FINISHED:
        css, sign = _SIGNS[Status(status)]
        return Mark(css, sign, f"{at}: {Status(status).label}")
    if status:
        return Mark("running", "▸", f"{at}: {Status(status).label}")
    return Mark("gone", "○", f"{at}: {decision}")
