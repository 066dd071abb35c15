"""Reword the labels of choices; no column changes."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("bgtask", "0005_unicode_text"),
    ]

    operations = [
        migrations.AlterField(
            model_name="task",
            name="held_for",
            field=models.CharField(
                blank=True,
                choices=[
                    ("operator", "held by an operator"),
                    ("type", "task type on hold"),
                    ("unknown", "unknown task: not registered on any worker"),
                ],
                max_length=8,
                null=True,
                verbose_name="held for",
            ),
        ),
    ]
