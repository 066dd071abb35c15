"""The queues of the landing page, with what is wrong with them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import django_tables2 as tables
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from bgtask.health import Level, QueueHealth
from bgtask_admin import text
from bgtask_admin.tables.base import DashboardTable
from bgtask_admin.templatetags.bgtask_admin import per_minute

_LEVELS = {
    Level.PASS: ("successful", _("ok")),
    Level.WARN: ("scheduled", _("warning")),
    Level.FAIL: ("failed", _("critical")),
}


class QueueTable(DashboardTable):
    name = tables.Column(verbose_name=_("Queue"))
    state = tables.Column(accessor="status", verbose_name=_("State"))
    ready = tables.Column(verbose_name=_("Ready"), attrs={"td": {"class": "bg-number"}})
    oldest = tables.Column(
        accessor="oldest_ready_age", verbose_name=_("Oldest"), attrs={"td": {"class": "bg-number"}}
    )
    running = tables.Column(verbose_name=_("Running"), attrs={"td": {"class": "bg-number"}})
    waiting = tables.Column(
        accessor="scheduled", verbose_name=_("Scheduled"), attrs={"td": {"class": "bg-number"}}
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

    class Meta(DashboardTable.Meta):
        empty_text = _(
            "No queue has anything to do. Queues appear here by themselves once something is "
            "enqueued."
        )
        attrs = {"class": "bg-table bg-queues"}

    def __init__(
        self,
        rows: Any,
        *,
        url: Any,
        charts: Any,
        span: str | Promise,
        may_pause: bool,
        may_view: bool,
    ) -> None:
        self._url, self._charts, self._may_view = url, charts, may_view
        super().__init__(rows, exclude=() if may_pause else ("actions",))
        self.columns["chart"].column.verbose_name = gettext("Last %s") % span

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
            format_html(gettext("since {}"), text.clock(record.oldest_ready_since)),
        )

    def render_running(self, record: QueueHealth) -> SafeString:
        shown = self._link(f"{record.running:,}", f"?status=RUNNING&queue={quote(record.name)}")
        if record.stuck.total:
            return format_html(
                '{} <span class="bg-status bg-status-failed">{}</span>',
                shown,
                gettext("%s stuck") % f"{record.stuck.total:,}",
            )
        return shown

    def render_waiting(self, record: QueueHealth) -> SafeString:
        shown = self._link(f"{record.scheduled:,}", f"?status=SCHEDULED&queue={quote(record.name)}")
        if record.held:
            held = self._link(
                gettext("%s held") % f"{record.held:,}", f"?status=HELD&queue={quote(record.name)}"
            )
            return format_html('{}<span class="bg-arguments">{}</span>', shown, held)
        return shown

    def render_failed(self, record: QueueHealth) -> SafeString:
        shown = f"{record.failed_window:,}"
        if record.failure_ratio:
            return format_html(
                '{}<span class="bg-arguments">{}</span>', shown, text.percent(record.failure_ratio)
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
