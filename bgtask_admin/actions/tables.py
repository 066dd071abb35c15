"""The table of the operations log: who changed which tasks, when and why."""

from __future__ import annotations

from typing import Any

import django_tables2 as tables
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from bgtask_admin.actions.run import filter_in_words, result_in_words
from bgtask_admin.models import Operation
from bgtask_admin.permissions import Details
from bgtask_admin.ui import formatting
from bgtask_admin.ui.tables import DashboardTable


class OperationTable(DashboardTable):
    created_at = tables.Column(verbose_name=_("When"))
    by = tables.Column(verbose_name=_("Who"))
    verb = tables.Column(verbose_name=_("Action"))
    filter_words = tables.Column(verbose_name=_("Tasks"))
    matched = tables.Column(verbose_name=_("Matched"), attrs={"td": {"class": "bg-number"}})
    changed = tables.Column(verbose_name=_("Changed"), attrs={"td": {"class": "bg-number"}})
    skipped = tables.Column(verbose_name=_("Skipped"), attrs={"td": {"class": "bg-number"}})
    state = tables.Column(verbose_name=_("State"))

    class Meta(DashboardTable.Meta):
        empty_text = _("No operations yet.")
        attrs = {"class": "bg-table", "id": "result_list"}

    def __init__(self, rows: Any, *, url: Any, details: Details) -> None:
        self._url, self._details = url, details
        super().__init__(rows)

    def render_created_at(self, value: Any) -> Any:
        return formatting.moment(value)

    def render_by(self, value: str) -> str:
        return formatting.short(value, 40)

    def render_verb(self, record: Operation) -> SafeString:
        return format_html(
            '<a href="{}">{}</a>',
            self._url("bgtask_admin_operation_change", record.pk),
            record.get_verb_display(),
        )

    def render_filter_words(self, record: Operation) -> SafeString:
        return format_html(
            '{}<span class="bg-arguments">{}</span>',
            formatting.short(filter_in_words(record, self._details), 160),
            formatting.short(record.reason, 120),
        )

    def render_matched(self, record: Operation) -> str:
        number = f"{record.matched:,}"
        return gettext("at least %s") % number if record.matched_at_least else number

    def render_changed(self, record: Operation) -> SafeString:
        return format_html(
            '<span title="{}">{}</span>',
            result_in_words(record, self._details),
            f"{record.changed:,}",
        )

    def render_skipped(self, value: int) -> str:
        return f"{value:,}"
