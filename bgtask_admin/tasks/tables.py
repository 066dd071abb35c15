"""The table of tasks, with a checkbox in each row."""

from __future__ import annotations

from typing import Any

import django_tables2 as tables
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from bgtask.models import Task
from bgtask.status import FINISHED, Status
from bgtask_admin.permissions import Details
from bgtask_admin.tasks.filters import TIMES
from bgtask_admin.templatetags.bgtask_admin import status_badge
from bgtask_admin.ui import formatting
from bgtask_admin.ui.arguments import arguments_in_a_line
from bgtask_admin.ui.tables import DashboardTable

WHEN_LABELS = {
    Status.READY: _("Due"),
    Status.SCHEDULED: _("Due"),
    Status.RUNNING: _("Running since"),
    Status.HELD: _("Enqueued"),
    **dict.fromkeys(FINISHED, _("Finished")),
}

# If all rows have one status, these columns would be the same in each row.
_SAYS_NOTHING = {
    Status.READY: ["status", "error"],
    Status.SCHEDULED: [],
    Status.RUNNING: ["error"],
    Status.HELD: [],
    Status.FAILED: ["status"],
    Status.CANCELLED: ["status"],
    Status.SUCCESSFUL: ["status", "error"],
}


class TickColumn(tables.Column):
    def __init__(self) -> None:
        super().__init__(accessor="pk", verbose_name="", attrs={"td": {"class": "bg-tick"}})

    @property
    def header(self) -> SafeString:
        return format_html(
            '<input type="checkbox" class="bg-tick-all" aria-label="{}" hidden>',
            _("Select all on this page"),
        )

    def render(self, value: int) -> SafeString:
        return format_html(
            '<input type="checkbox" name="tick" value="{}" aria-label="{}">',
            value,
            _("Select task %s") % value,
        )


class TaskTable(DashboardTable):
    tick = TickColumn()
    task = tables.Column(accessor="task_name", verbose_name=_("Task"))
    status = tables.Column(verbose_name=_("Status"))
    queue = tables.Column(verbose_name=_("Queue"))
    attempts = tables.Column(verbose_name=_("Attempts"), attrs={"td": {"class": "bg-number"}})
    error = tables.Column(accessor="error_class", verbose_name=_("Error"), empty_values=())
    when = tables.Column(accessor="pk", verbose_name=_("When"))

    class Meta(DashboardTable.Meta):
        attrs = {"class": "bg-table bg-tasks", "id": "result_list"}
        row_attrs = {"data-id": lambda record: record.pk}

    def __init__(
        self,
        rows: Any,
        *,
        url: Any,
        details: Details,
        with_ticks: bool,
        status: Status | None,
        empty_text: str,
    ) -> None:
        self._url, self._details = url, details
        exclude = [] if with_ticks else ["tick"]
        exclude += [] if status is None else _SAYS_NOTHING[status]
        super().__init__(rows, exclude=exclude, empty_text=empty_text)
        self.columns["when"].column.verbose_name = WHEN_LABELS[status] if status else _("When")

    def render_task(self, record: Task) -> SafeString:
        arguments = arguments_in_a_line(record) if self._details.arguments else ""
        if self._details.arguments and getattr(record, "is_long", False):
            arguments = str(_("(long arguments: see the task)"))
        return format_html(
            '<a class="bg-name" href="{}">{}</a> <span class="bg-quiet">#{}</span>'
            '<span class="bg-arguments">{}</span>',
            self._url("bgtask_task_change", record.pk),
            formatting.name(record.verbose_name or record.task_name, 80),
            record.pk,
            arguments,
        )

    def render_status(self, record: Task) -> SafeString:
        badge = status_badge(record.status)
        if record.is_retrying:
            return format_html('{} <span class="bg-quiet">{}</span>', badge, _("retrying"))
        if record.status == Status.RUNNING and record.cancel_requested:
            return format_html('{} <span class="bg-quiet">{}</span>', badge, _("asked to stop"))
        if record.held_for:
            return format_html(
                '{} <span class="bg-quiet">{}</span>', badge, record.get_held_for_display()
            )
        return badge

    def render_queue(self, value: str) -> str:
        return formatting.short(value, 40)

    def render_attempts(self, record: Task) -> str:
        return f"{record.attempts}/{record.executions_allowed}"

    def render_error(self, record: Task) -> str | SafeString:
        if not record.error_class:
            return ""
        return format_html(
            '<a href="{}" title="{}">{}</a><span class="bg-arguments">{}</span>',
            self._url("bgtask_admin_error", record.error_fingerprint)
            if record.error_fingerprint
            else self._url("bgtask_task_change", record.pk),
            formatting.visible(record.error_class),
            formatting.short(record.error_class.rpartition(".")[2], 60),
            formatting.short((self._details.errors and record.error_message) or "", 100),
        )

    def render_when(self, record: Task) -> str | SafeString:
        # The row may have a status of a newer release, or one that was edited by hand.
        is_known = record.status in Status.values
        column = TIMES[Status(record.status)] if is_known else "enqueued_at"
        return formatting.moment(getattr(record, column))
