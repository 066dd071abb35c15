"""What all tables have in common."""

from __future__ import annotations

import django_tables2 as tables


class DashboardTable(tables.Table):
    """Without Bootstrap, and without COUNT: what is shown is all that it was given."""

    class Meta:
        template_name = "bgtask_admin/table.html"
        orderable = False
