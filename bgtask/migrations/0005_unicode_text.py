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
    widen_columns(schema_editor, apps.get_app_config("bgtask").get_models())


class Migration(migrations.Migration):
    dependencies = [
        ("bgtask", "0004_interruptions"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterField(
                    model_name="attempt",
                    name="error_class",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=255, verbose_name="error class"
                    ),
                ),
                migrations.AlterField(
                    model_name="attempt",
                    name="message",
                    field=bgtask.db.fields.UnicodeTextField(blank=True, verbose_name="message"),
                ),
                migrations.AlterField(
                    model_name="attempt",
                    name="traceback",
                    field=bgtask.db.fields.UnicodeTextField(blank=True, verbose_name="traceback"),
                ),
                migrations.AlterField(
                    model_name="attempt",
                    name="worker",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=255, verbose_name="worker"
                    ),
                ),
                migrations.AlterField(
                    model_name="hold",
                    name="by",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=255, verbose_name="by"
                    ),
                ),
                migrations.AlterField(
                    model_name="hold",
                    name="reason",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=500, verbose_name="reason"
                    ),
                ),
                migrations.AlterField(
                    model_name="queue",
                    name="by",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=255, verbose_name="by"
                    ),
                ),
                migrations.AlterField(
                    model_name="queue",
                    name="reason",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=500, verbose_name="reason"
                    ),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="error_class",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=255,
                        verbose_name="error class",
                    ),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="last_error",
                    field=bgtask.db.fields.UnicodeTextField(
                        blank=True, db_default="", default="", verbose_name="last error"
                    ),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="last_worker",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=255,
                        verbose_name="last worker",
                    ),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="return_value",
                    field=bgtask.db.fields.UnicodeTextField(
                        blank=True, null=True, verbose_name="return value"
                    ),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="task_params",
                    field=bgtask.db.fields.UnicodeTextField(
                        db_default="[[], {}]", default="[[], {}]", verbose_name="parameters"
                    ),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="verbose_name",
                    field=bgtask.db.fields.UnicodeCharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=255,
                        verbose_name="verbose name",
                    ),
                ),
                migrations.AlterField(
                    model_name="worker",
                    name="host",
                    field=bgtask.db.fields.UnicodeCharField(max_length=255, verbose_name="host"),
                ),
                migrations.AlterField(
                    model_name="worker",
                    name="label",
                    field=bgtask.db.fields.UnicodeCharField(max_length=255, verbose_name="label"),
                ),
                migrations.AlterField(
                    model_name="worker",
                    name="queues",
                    field=bgtask.db.fields.UnicodeTextField(
                        blank=True, help_text="Comma-separated; empty: all.", verbose_name="queues"
                    ),
                ),
            ],
        ),
        # MariaDB and MySQL commit at each change of a table.
        migrations.RunPython(widen, migrations.RunPython.noop, atomic=False),
    ]
