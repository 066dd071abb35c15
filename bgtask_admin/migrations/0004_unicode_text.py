"""Let the text columns hold every character, where MariaDB's or MySQL's default is narrower.

The columns of PostgreSQL and SQLite hold every character. They are not touched: to alter one, SQLite
would copy the whole table.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations

import bgtask.db.fields
from bgtask.db.unicode import widen_columns


def widen(apps: Any, schema_editor: Any) -> None:
    widen_columns(schema_editor, apps.get_app_config("bgtask_admin").get_models())


class Migration(migrations.Migration):
    dependencies = [
        ("bgtask_admin", "0003_pages_as_proxies"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterField(
                    model_name="operation",
                    name="by",
                    field=bgtask.db.fields.UnicodeCharField(max_length=255, verbose_name="who"),
                ),
                migrations.AlterField(
                    model_name="operation",
                    name="filter",
                    field=bgtask.db.fields.UnicodeTextField(default="{}", verbose_name="filter"),
                ),
                migrations.AlterField(
                    model_name="operation",
                    name="filter_words",
                    field=bgtask.db.fields.UnicodeTextField(blank=True, verbose_name="tasks"),
                ),
                migrations.AlterField(
                    model_name="operation",
                    name="options",
                    field=bgtask.db.fields.UnicodeTextField(default="{}", verbose_name="options"),
                ),
                migrations.AlterField(
                    model_name="operation",
                    name="reason",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=500, verbose_name="reason"
                    ),
                ),
                migrations.AlterField(
                    model_name="operation",
                    name="skipped_for",
                    field=bgtask.db.fields.UnicodeTextField(
                        default="{}", verbose_name="skipped for"
                    ),
                ),
            ],
        ),
        # MariaDB and MySQL commit at each change of a table.
        migrations.RunPython(widen, migrations.RunPython.noop, atomic=False),
    ]
