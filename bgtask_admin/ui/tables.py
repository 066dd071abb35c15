"""The base class of all tables."""

from __future__ import annotations

import django_tables2 as tables


class DashboardTable(tables.Table):
    """A table without Bootstrap. It shows all its rows, so it needs no COUNT for pages."""

    class Meta:
        template_name = "bgtask_admin/ui/table.html"
        orderable = False
