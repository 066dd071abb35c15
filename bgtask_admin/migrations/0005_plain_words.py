"""Reword the labels of choices; no column changes."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("bgtask_admin", "0004_unicode_text"),
    ]

    operations = [
        migrations.AlterField(
            model_name="operation",
            name="verb",
            field=models.CharField(
                choices=[
                    ("requeue", "Requeue"),
                    ("reset", "Reset attempt count"),
                    ("run_now", "Run now"),
                    ("cancel", "Cancel"),
                    ("delete", "Delete"),
                    ("priority", "Change priority"),
                    ("queue", "Change queue"),
                    ("hold", "Hold"),
                    ("release", "Release"),
                    ("hold_type", "Hold task type"),
                    ("release_type", "Release task type"),
                    ("pause", "Pause queue"),
                    ("resume", "Resume queue"),
                    ("rescue", "Return a worker’s tasks to queue"),
                ],
                max_length=20,
                verbose_name="action",
            ),
        ),
    ]
