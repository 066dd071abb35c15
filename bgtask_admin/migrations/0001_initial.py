"""Create the table of the operations log."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import bgtask.db.fields


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Operation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key", models.CharField(max_length=64, unique=True, verbose_name="key")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="when")),
                (
                    "finished_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="finished at"),
                ),
                ("by", bgtask.db.fields.UnicodeCharField(max_length=255, verbose_name="who")),
                (
                    "verb",
                    models.CharField(
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
                            ("give_up_key", "Give up the key"),
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
                (
                    "filter",
                    bgtask.db.fields.UnicodeTextField(default="{}", verbose_name="filter"),
                ),
                (
                    "filter_words",
                    bgtask.db.fields.UnicodeTextField(blank=True, verbose_name="tasks"),
                ),
                (
                    "options",
                    bgtask.db.fields.UnicodeTextField(default="{}", verbose_name="options"),
                ),
                (
                    "reason",
                    bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=500, verbose_name="reason"
                    ),
                ),
                ("previewed_at", models.DateTimeField(verbose_name="previewed at")),
                ("high_water", models.PositiveBigIntegerField(default=0, verbose_name="up to id")),
                (
                    "last_id",
                    models.PositiveBigIntegerField(default=0, verbose_name="done up to id"),
                ),
                ("begun", models.TextField(blank=True, default="", verbose_name="begun")),
                ("matched", models.PositiveIntegerField(default=0, verbose_name="matched")),
                (
                    "matched_at_least",
                    models.BooleanField(default=False, verbose_name="more may match"),
                ),
                ("changed", models.PositiveIntegerField(default=0, verbose_name="changed")),
                ("skipped", models.PositiveIntegerField(default=0, verbose_name="skipped")),
                (
                    "skipped_for",
                    bgtask.db.fields.UnicodeTextField(default="{}", verbose_name="skipped for"),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[("running", "running"), ("done", "done"), ("stopped", "stopped")],
                        default="running",
                        max_length=10,
                        verbose_name="state",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "operation",
                "verbose_name_plural": "operations log",
                "ordering": ["-id"],
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="QueueHealth",
            fields=[],
            options={
                "verbose_name": "queue health",
                "verbose_name_plural": "queue health",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("bgtask_admin.operation",),
        ),
        migrations.CreateModel(
            name="TaskList",
            fields=[],
            options={
                "verbose_name": "tasks",
                "verbose_name_plural": "tasks",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("bgtask_admin.operation",),
        ),
    ]
