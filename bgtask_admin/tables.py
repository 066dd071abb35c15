"""A queryset or a list of figures becomes columns."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import django_tables2 as tables
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from bgtask.health import Level, QueueHealth
from bgtask.models import Task
from bgtask.status import FINISHED, Status
from bgtask_admin import text
from bgtask_admin.filters import TIMES
from bgtask_admin.masking import arguments_in_a_line
from bgtask_admin.models import Operation
from bgtask_admin.operations import filter_in_words, result_in_words
from bgtask_admin.templatetags.bgtask_admin import per_minute, status_badge
from bgtask_admin.tracebacks import last_line

WHEN_LABELS = {
    Status.READY: _("Due"),
    Status.SCHEDULED: _("Due"),
    Status.RUNNING: _("Running since"),
    Status.HELD: _("Enqueued"),
    **dict.fromkeys(FINISHED, _("Ended")),
}


# Where all rows are of one status, some columns would be the same in each.
_SAYS_NOTHING = {
    Status.READY: ["status", "error"],
    Status.SCHEDULED: [],
    Status.RUNNING: ["error"],
    Status.HELD: [],
    Status.FAILED: ["status"],
    Status.CANCELLED: ["status"],
    Status.SUCCESSFUL: ["status", "error"],
}


class RoomTable(tables.Table):
    """Without Bootstrap, and without COUNT: what is shown is all that it was given."""

    class Meta:
        template_name = "bgtask_admin/table.html"
        orderable = False


class TickColumn(tables.Column):
    def __init__(self) -> None:
        super().__init__(accessor="pk", verbose_name="", attrs={"td": {"class": "bg-tick"}})

    @property
    def header(self) -> SafeString:
        return format_html(
            '<input type="checkbox" class="bg-tick-all" aria-label="{}" hidden>',
            _("Tick all on this page"),
        )

    def render(self, value: int) -> SafeString:
        return format_html(
            '<input type="checkbox" name="tick" value="{}" aria-label="{}">',
            value,
            _("Tick task %s") % value,
        )


class TaskTable(RoomTable):
    tick = TickColumn()
    task = tables.Column(accessor="task_name", verbose_name=_("Task"))
    status = tables.Column(verbose_name=_("Status"))
    queue = tables.Column(verbose_name=_("Queue"))
    attempts = tables.Column(verbose_name=_("Attempts"), attrs={"td": {"class": "bg-number"}})
    error = tables.Column(accessor="error_class", verbose_name=_("Error"), empty_values=())
    when = tables.Column(accessor="pk", verbose_name=_("When"))

    class Meta(RoomTable.Meta):
        empty_text = _("No task matches.")
        attrs = {"class": "bg-table bg-tasks", "id": "result_list"}
        row_attrs = {"data-id": lambda record: record.pk}

    def __init__(
        self, rows: Any, *, url: Any, with_arguments: bool, with_ticks: bool, status: Status | None
    ) -> None:
        self._url, self._with_arguments = url, with_arguments
        exclude = [] if with_ticks else ["tick"]
        exclude += [] if status is None else _SAYS_NOTHING[status]
        super().__init__(rows, exclude=exclude)
        self.columns["when"].column.verbose_name = WHEN_LABELS[status] if status else _("When")

    def render_task(self, record: Task) -> SafeString:
        arguments = arguments_in_a_line(record) if self._with_arguments else ""
        if self._with_arguments and getattr(record, "is_long", False):
            arguments = str(_("(long arguments: see the task)"))
        return format_html(
            '<a class="bg-name" href="{}">{}</a> <span class="bg-quiet">#{}</span>'
            '<span class="bg-arguments">{}</span>',
            self._url("bgtask_task_change", record.pk),
            text.name(record.verbose_name or record.task_name, 80),
            record.pk,
            arguments,
        )

    def render_status(self, record: Task) -> SafeString:
        badge = status_badge(record.status)
        if record.status == Status.SCHEDULED and record.attempts:
            return format_html('{} <span class="bg-quiet">{}</span>', badge, _("retrying"))
        if record.status == Status.RUNNING and record.cancel_requested:
            return format_html('{} <span class="bg-quiet">{}</span>', badge, _("asked to stop"))
        if record.held_for:
            return format_html(
                '{} <span class="bg-quiet">{}</span>', badge, record.get_held_for_display()
            )
        return badge

    def render_queue(self, value: str) -> str:
        return text.short(value, 40)

    def render_attempts(self, record: Task) -> str:
        return f"{record.attempts}/{record.executions_allowed}"

    def render_error(self, record: Task) -> str | SafeString:
        if not record.error_class:
            return ""
        line = last_line(getattr(record, "error_tail", ""))
        message = line.removeprefix(record.error_class).removeprefix(": ")
        return format_html(
            '<a href="{}" title="{}">{}</a><span class="bg-arguments">{}</span>',
            self._url("bgtask_admin_error", record.error_fingerprint)
            if record.error_fingerprint
            else self._url("bgtask_task_change", record.pk),
            text.visible(record.error_class),
            text.short(record.error_class.rpartition(".")[2], 60),
            text.short(message, 100),
        )

    def render_when(self, record: Task) -> str | SafeString:
        return text.moment(getattr(record, TIMES[Status(record.status)]))


class QueueTable(RoomTable):
    name = tables.Column(verbose_name=_("Queue"))
    state = tables.Column(accessor="status", verbose_name=_("State"))
    ready = tables.Column(verbose_name=_("Ready"), attrs={"td": {"class": "bg-number"}})
    oldest = tables.Column(
        accessor="oldest_ready_age", verbose_name=_("Oldest"), attrs={"td": {"class": "bg-number"}}
    )
    running = tables.Column(verbose_name=_("Running"), attrs={"td": {"class": "bg-number"}})
    waiting = tables.Column(
        accessor="scheduled", verbose_name=_("Later"), attrs={"td": {"class": "bg-number"}}
    )
    failed = tables.Column(
        accessor="failed_window",
        verbose_name=_("Failed attempts"),
        attrs={"td": {"class": "bg-number"}},
    )
    done = tables.Column(
        accessor="throughput_per_minute",
        verbose_name=_("Done/min"),
        attrs={"td": {"class": "bg-number"}},
    )
    chart = tables.Column(accessor="name", verbose_name="")
    actions = tables.Column(accessor="name", verbose_name="", attrs={"td": {"class": "bg-actions"}})

    class Meta(RoomTable.Meta):
        empty_text = _(
            "No queue has anything to do. Queues appear here by themselves once something is "
            "enqueued."
        )
        attrs = {"class": "bg-table bg-queues"}

    def __init__(
        self, rows: Any, *, url: Any, charts: Any, span: str, may_pause: bool, may_view: bool
    ) -> None:
        self._url, self._charts, self._may_view = url, charts, may_view
        super().__init__(rows, exclude=() if may_pause else ("actions",))
        self.columns["chart"].column.verbose_name = _("Last %s") % span

    def render_name(self, value: str) -> str | SafeString:
        return self._link(text.short(value, 60), f"?queue={quote(value)}", "bg-name")

    def render_state(self, record: QueueHealth) -> SafeString:
        if record.paused:
            return format_html('<span class="bg-status bg-status-held">{}</span>', _("paused"))
        css, word = _LEVELS[record.status]
        return format_html('<span class="bg-status bg-status-{}">{}</span>', css, word)

    def render_ready(self, record: QueueHealth) -> str | SafeString:
        query = f"?status=READY&queue={quote(record.name)}"
        return self._link(f"{record.ready:,}", query)

    def render_oldest(self, record: QueueHealth) -> str | SafeString:
        if record.oldest_ready_since is None:
            return "–"
        return format_html(
            '{}<span class="bg-arguments">{}</span>',
            text.duration(record.oldest_ready_age),
            format_html(str(_("since {}")), text.clock(record.oldest_ready_since)),
        )

    def render_running(self, record: QueueHealth) -> SafeString:
        shown = self._link(f"{record.running:,}", f"?status=RUNNING&queue={quote(record.name)}")
        if record.stuck.total:
            return format_html(
                '{} <span class="bg-status bg-status-failed">{}</span>',
                shown,
                _("%d stuck") % record.stuck.total,
            )
        return shown

    def render_waiting(self, record: QueueHealth) -> SafeString:
        shown = self._link(f"{record.scheduled:,}", f"?status=SCHEDULED&queue={quote(record.name)}")
        if record.held:
            held = self._link(
                str(_("%s held") % f"{record.held:,}"), f"?status=HELD&queue={quote(record.name)}"
            )
            return format_html('{}<span class="bg-arguments">{}</span>', shown, held)
        return shown

    def render_failed(self, record: QueueHealth) -> SafeString:
        shown = f"{record.failed_window:,}"
        if record.failure_ratio:
            return format_html(
                '{}<span class="bg-arguments">{}</span>', shown, f"{record.failure_ratio:.0%}"
            )
        return format_html("{}", shown)

    def render_done(self, value: float) -> str:
        return per_minute(value)

    def render_chart(self, record: QueueHealth) -> SafeString:
        chart: SafeString = self._charts(record.name)
        return chart

    def render_actions(self, record: QueueHealth) -> SafeString:
        if record.paused:
            return format_html(
                '<button class="bg-button" form="resume" name="name" value="{}">{}</button>',
                record.name,
                _("Resume"),
            )
        return format_html(
            '<a class="bg-button" href="{}?name={}" aria-label="{}">{}</a>',
            self._url("bgtask_admin_pause"),
            quote(record.name),
            _("Pause %s") % text.short(record.name, 60),
            _("Pause…"),
        )

    def _link(self, words: str, query: str, css: str = "") -> SafeString:
        if not self._may_view:
            return format_html('<span class="{}">{}</span>', css, words)
        url = self._url("bgtask_task_changelist")
        return format_html('<a class="{}" href="{}{}">{}</a>', css, url, query, words)


_LEVELS = {
    Level.PASS: ("successful", _("ok")),
    Level.WARN: ("scheduled", _("warning")),
    Level.FAIL: ("failed", _("critical")),
}


class OperationTable(RoomTable):
    created_at = tables.Column(verbose_name=_("When"))
    by = tables.Column(verbose_name=_("Who"))
    verb = tables.Column(verbose_name=_("Action"))
    filter_words = tables.Column(verbose_name=_("Tasks"))
    matched = tables.Column(verbose_name=_("Matched"), attrs={"td": {"class": "bg-number"}})
    changed = tables.Column(verbose_name=_("Changed"), attrs={"td": {"class": "bg-number"}})
    skipped = tables.Column(verbose_name=_("Skipped"), attrs={"td": {"class": "bg-number"}})
    state = tables.Column(verbose_name=_("State"))

    class Meta(RoomTable.Meta):
        empty_text = _("Nobody has done anything here yet.")
        attrs = {"class": "bg-table", "id": "result_list"}

    def __init__(self, rows: Any, *, url: Any, with_arguments: bool) -> None:
        self._url, self._with_arguments = url, with_arguments
        super().__init__(rows)

    def render_created_at(self, value: Any) -> Any:
        return text.moment(value)

    def render_by(self, value: str) -> str:
        return text.short(value, 40)

    def render_verb(self, record: Operation) -> SafeString:
        return format_html(
            '<a href="{}">{}</a>',
            self._url("bgtask_admin_operation_change", record.pk),
            record.get_verb_display(),
        )

    def render_filter_words(self, record: Operation) -> SafeString:
        return format_html(
            '{}<span class="bg-arguments">{}</span>',
            text.short(filter_in_words(record, with_arguments=self._with_arguments), 160),
            text.short(record.reason, 120),
        )

    def render_matched(self, value: int) -> str:
        return f"{value:,}"

    def render_changed(self, record: Operation) -> SafeString:
        return format_html(
            '<span title="{}">{}</span>', result_in_words(record), f"{record.changed:,}"
        )

    def render_skipped(self, value: int) -> str:
        return f"{value:,}"
