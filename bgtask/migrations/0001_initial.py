"""Create the tables of the queue.

On PostgreSQL, let autovacuum clean the table of tasks as often as a queue needs. Each task leaves
two dead rows and their index entries. By the default settings, autovacuum waits until a fifth of
the table is dead. With millions of finished tasks this is never the case.
"""

from __future__ import annotations

from typing import Any

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models, router

import bgtask.db.fields

AUTOVACUUM = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "2000",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "1",
}


def set_autovacuum(apps: Any, schema_editor: Any) -> None:
    """Set the parameters if this database is PostgreSQL and has the table of tasks."""
    connection, task = schema_editor.connection, apps.get_model("bgtask", "Task")
    # A router may decide by the model, as it does for CreateModel.
    if connection.vendor == "postgresql" and router.allow_migrate_model(connection.alias, task):
        values = ", ".join(f"{name} = {value}" for name, value in AUTOVACUUM.items())
        table = schema_editor.quote_name(task._meta.db_table)
        schema_editor.execute(f"ALTER TABLE {table} SET ({values})")


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="QueuePause",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "queue",
                    bgtask.db.fields.ExactCharField(
                        max_length=100, unique=True, verbose_name="queue"
                    ),
                ),
                ("paused_at", models.DateTimeField(verbose_name="paused at")),
                (
                    "expires_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="expires at"),
                ),
                (
                    "paused_by",
                    bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=255, verbose_name="paused by"
                    ),
                ),
                (
                    "reason",
                    bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=500, verbose_name="reason"
                    ),
                ),
            ],
            options={
                "verbose_name": "paused queue",
                "verbose_name_plural": "paused queues",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="TaskHold",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "task_name",
                    bgtask.db.fields.ExactCharField(
                        max_length=255, unique=True, verbose_name="task name"
                    ),
                ),
                ("held_at", models.DateTimeField(verbose_name="held at")),
                (
                    "expires_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="expires at"),
                ),
                (
                    "held_by",
                    bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=255, verbose_name="held by"
                    ),
                ),
                (
                    "reason",
                    bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=500, verbose_name="reason"
                    ),
                ),
            ],
            options={
                "verbose_name": "task on hold",
                "verbose_name_plural": "tasks on hold",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="QueueHistory",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("minute", models.DateTimeField(verbose_name="first minute")),
                (
                    "queue",
                    bgtask.db.fields.ExactCharField(max_length=100, verbose_name="queue"),
                ),
                ("succeeded", models.PositiveBigIntegerField(default=0, verbose_name="succeeded")),
                ("failed", models.PositiveBigIntegerField(default=0, verbose_name="failed")),
                ("retried", models.PositiveBigIntegerField(default=0, verbose_name="retried")),
                ("ready", models.PositiveIntegerField(null=True, verbose_name="ready")),
                (
                    "oldest_ready_age",
                    models.PositiveBigIntegerField(
                        null=True, verbose_name="age of the oldest ready"
                    ),
                ),
            ],
            options={
                "verbose_name": "queue history",
                "verbose_name_plural": "queue histories",
                "default_permissions": ("view",),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("minute", "queue"), name="bgtask_queuehistory_key"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="QueueStats",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("minute", models.DateTimeField(verbose_name="minute")),
                (
                    "queue",
                    bgtask.db.fields.ExactCharField(max_length=100, verbose_name="queue"),
                ),
                ("ready", models.PositiveIntegerField(verbose_name="ready")),
                (
                    "oldest_ready_age",
                    models.PositiveBigIntegerField(verbose_name="age of the oldest ready"),
                ),
            ],
            options={
                "verbose_name": "queue statistics",
                "verbose_name_plural": "queue statistics",
                "default_permissions": ("view",),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("minute", "queue"), name="bgtask_queuestats_key"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="TaskStats",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("minute", models.DateTimeField(verbose_name="minute")),
                (
                    "queue",
                    bgtask.db.fields.ExactCharField(max_length=100, verbose_name="queue"),
                ),
                (
                    "task_name",
                    bgtask.db.fields.ExactCharField(max_length=255, verbose_name="task name"),
                ),
                ("succeeded", models.PositiveIntegerField(default=0, verbose_name="succeeded")),
                ("failed", models.PositiveIntegerField(default=0, verbose_name="failed")),
                ("retried", models.PositiveIntegerField(default=0, verbose_name="retried")),
                (
                    "latency_sum",
                    models.PositiveBigIntegerField(default=0, verbose_name="summed latency"),
                ),
                (
                    "latency_max",
                    models.PositiveBigIntegerField(default=0, verbose_name="greatest latency"),
                ),
                (
                    "duration_sum",
                    models.PositiveBigIntegerField(default=0, verbose_name="summed duration"),
                ),
                (
                    "duration_max",
                    models.PositiveBigIntegerField(default=0, verbose_name="greatest duration"),
                ),
            ],
            options={
                "verbose_name": "task statistics",
                "verbose_name_plural": "task statistics",
                "default_permissions": ("view",),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("minute", "queue", "task_name"), name="bgtask_taskstats_key"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "host",
                    bgtask.db.fields.UnicodeCharField(max_length=255, verbose_name="host"),
                ),
                ("pid", models.PositiveIntegerField(verbose_name="process id")),
                (
                    "label",
                    bgtask.db.fields.UnicodeCharField(max_length=255, verbose_name="label"),
                ),
                (
                    "queues",
                    bgtask.db.fields.UnicodeTextField(
                        blank=True, help_text="Comma-separated; empty: all.", verbose_name="queues"
                    ),
                ),
                ("threads", models.PositiveIntegerField(default=1, verbose_name="threads")),
                (
                    "stuck",
                    models.PositiveIntegerField(
                        db_default=0, default=0, verbose_name="stuck threads"
                    ),
                ),
                ("started_at", models.DateTimeField(verbose_name="started at")),
                ("heartbeat_at", models.DateTimeField(verbose_name="last heartbeat")),
                ("lease_expires_at", models.DateTimeField(verbose_name="lease expires at")),
                (
                    "state",
                    models.CharField(
                        choices=[("alive", "alive"), ("stopping", "stopping"), ("dead", "dead")],
                        default="alive",
                        max_length=10,
                        verbose_name="state",
                    ),
                ),
                (
                    "stopped_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="told to stop at"),
                ),
            ],
            options={
                "verbose_name": "worker",
                "verbose_name_plural": "workers",
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["state", "lease_expires_at"], name="bgtask_worker_lease")
                ],
            },
        ),
        migrations.CreateModel(
            name="Task",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "task_name",
                    bgtask.db.fields.ExactCharField(max_length=255, verbose_name="task name"),
                ),
                (
                    "task_params",
                    bgtask.db.fields.UnicodeTextField(
                        db_default="[[], {}]", default="[[], {}]", verbose_name="parameters"
                    ),
                ),
                (
                    "verbose_name",
                    bgtask.db.fields.UnicodeCharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=255,
                        verbose_name="verbose name",
                    ),
                ),
                (
                    "queue",
                    bgtask.db.fields.ExactCharField(
                        db_default="default",
                        default="default",
                        max_length=100,
                        verbose_name="queue",
                    ),
                ),
                (
                    "priority",
                    models.IntegerField(
                        db_default=0, default=0, help_text="Higher first.", verbose_name="priority"
                    ),
                ),
                (
                    "unique_key",
                    bgtask.db.fields.ExactCharField(
                        blank=True, max_length=255, null=True, verbose_name="unique key"
                    ),
                ),
                (
                    "unique_name",
                    bgtask.db.fields.ExactCharField(
                        blank=True, max_length=255, null=True, verbose_name="unique name"
                    ),
                ),
                (
                    "unique_while",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("running", "until it is finished"),
                            ("waiting", "until a worker takes it"),
                        ],
                        max_length=7,
                        null=True,
                        verbose_name="holds its key while",
                    ),
                ),
                (
                    "unique_until",
                    models.DateTimeField(
                        blank=True, null=True, verbose_name="holds its key at least until"
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("SCHEDULED", "Scheduled"),
                            ("READY", "Ready"),
                            ("RUNNING", "Running"),
                            ("HELD", "Held"),
                            ("SUCCESSFUL", "Successful"),
                            ("FAILED", "Failed"),
                            ("CANCELLED", "Cancelled"),
                        ],
                        db_default="READY",
                        default="READY",
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                (
                    "held_for",
                    models.CharField(
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
                (
                    "cancel_requested",
                    models.BooleanField(
                        db_default=False, default=False, verbose_name="cancel requested"
                    ),
                ),
                (
                    "run_at",
                    models.DateTimeField(default=django.utils.timezone.now, verbose_name="run at"),
                ),
                (
                    "enqueued_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="enqueued at"
                    ),
                ),
                (
                    "started_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="first started at"),
                ),
                (
                    "finished_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="finished at"),
                ),
                (
                    "duration_ms",
                    models.PositiveBigIntegerField(
                        blank=True, null=True, verbose_name="duration of the last attempt, ms"
                    ),
                ),
                (
                    "locked_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="locked at"),
                ),
                (
                    "deadline_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="deadline at"),
                ),
                (
                    "last_worker",
                    bgtask.db.fields.ExactCharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=255,
                        verbose_name="last worker",
                    ),
                ),
                (
                    "token",
                    models.PositiveBigIntegerField(db_default=0, default=0, verbose_name="token"),
                ),
                (
                    "attempts",
                    models.PositiveIntegerField(db_default=0, default=0, verbose_name="attempts"),
                ),
                (
                    "crashes",
                    models.PositiveIntegerField(db_default=0, default=0, verbose_name="crashes"),
                ),
                (
                    "max_attempts",
                    models.PositiveIntegerField(blank=True, null=True, verbose_name="max attempts"),
                ),
                (
                    "max_run_time",
                    models.FloatField(blank=True, null=True, verbose_name="max run time, seconds"),
                ),
                (
                    "last_error",
                    bgtask.db.fields.UnicodeTextField(
                        blank=True, db_default="", default="", verbose_name="last error"
                    ),
                ),
                (
                    "error_message",
                    bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=1000, null=True, verbose_name="error message"
                    ),
                ),
                (
                    "error_class",
                    bgtask.db.fields.ExactCharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=255,
                        verbose_name="error class",
                    ),
                ),
                (
                    "error_fingerprint",
                    bgtask.db.fields.ExactCharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=32,
                        verbose_name="error fingerprint",
                    ),
                ),
                (
                    "return_value",
                    bgtask.db.fields.UnicodeTextField(
                        blank=True, null=True, verbose_name="return value"
                    ),
                ),
                (
                    "backend",
                    bgtask.db.fields.ExactCharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=100,
                        verbose_name="backend",
                    ),
                ),
                (
                    "result_id",
                    models.UUIDField(blank=True, null=True, verbose_name="result id"),
                ),
                (
                    "locked_by",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="tasks",
                        to="bgtask.worker",
                        verbose_name="locked by",
                    ),
                ),
            ],
            options={
                "verbose_name": "task",
                "verbose_name_plural": "tasks",
                "permissions": [
                    ("view_task_arguments", "Can view the arguments and results of tasks"),
                    ("view_traceback", "Can view tracebacks and error messages"),
                    ("requeue_task", "Can requeue tasks"),
                    ("cancel_task", "Can cancel tasks"),
                    ("hold_task", "Can hold and release tasks"),
                    ("pause_queue", "Can pause and resume queues"),
                    ("monitor", "Can read health, statistics and metrics"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Attempt",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("token", models.PositiveBigIntegerField(verbose_name="token")),
                ("number", models.PositiveIntegerField(verbose_name="number")),
                (
                    "worker",
                    bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=255, verbose_name="worker"
                    ),
                ),
                ("started_at", models.DateTimeField(null=True, verbose_name="started at")),
                ("finished_at", models.DateTimeField(verbose_name="finished at")),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("failed", "failed"),
                            ("lost", "lost with its worker"),
                            ("interrupted", "interrupted by the stop of its worker"),
                            ("timed_out", "ran longer than allowed"),
                            ("cancelled", "cancelled"),
                        ],
                        max_length=20,
                        verbose_name="outcome",
                    ),
                ),
                (
                    "error_class",
                    bgtask.db.fields.UnicodeCharField(
                        blank=True, max_length=255, verbose_name="error class"
                    ),
                ),
                (
                    "message",
                    bgtask.db.fields.UnicodeTextField(blank=True, verbose_name="message"),
                ),
                (
                    "traceback",
                    bgtask.db.fields.UnicodeTextField(blank=True, verbose_name="traceback"),
                ),
                (
                    "error_fingerprint",
                    bgtask.db.fields.ExactCharField(
                        blank=True, max_length=32, verbose_name="error fingerprint"
                    ),
                ),
                (
                    "task",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="history",
                        to="bgtask.task",
                        verbose_name="task",
                    ),
                ),
            ],
            options={
                "verbose_name": "attempt",
                "verbose_name_plural": "attempts",
                "ordering": ["task", "token"],
                "default_permissions": (),
                "indexes": [
                    models.Index(
                        fields=["error_fingerprint", "-finished_at", "-id"],
                        name="bgtask_attempt_error",
                    ),
                    models.Index(fields=["-finished_at", "-id"], name="bgtask_attempt_finished"),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("task", "token"), name="bgtask_attempt_once")
                ],
            },
        ),
        migrations.AddIndex(
            model_name="task",
            index=bgtask.db.fields.PartialIndex(
                fields=["crashes", "queue", "-priority", "run_at", "id"],
                name="bgtask_task_claim",
                where={"status": "READY"},
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=bgtask.db.fields.PartialIndex(
                fields=["run_at", "id", "queue"],
                name="bgtask_task_promote",
                where={"status": "SCHEDULED"},
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=bgtask.db.fields.PartialIndex(
                fields=["locked_by", "id"],
                name="bgtask_task_locked",
                where={"locked_by__isnull": False},
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=bgtask.db.fields.PartialIndex(
                fields=["deadline_at", "id"],
                front=[],
                name="bgtask_task_deadline",
                where={"status": "RUNNING"},
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=bgtask.db.fields.PartialIndex(
                fields=["task_name", "id"],
                front=["held_for"],
                name="bgtask_task_held",
                where={"status": "HELD"},
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=bgtask.db.fields.PartialIndex(
                fields=["status", "-finished_at", "-id"],
                name="bgtask_task_finished",
                where={"finished_at__isnull": False},
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=bgtask.db.fields.PartialIndex(
                fields=["error_fingerprint", "-finished_at", "-id"],
                name="bgtask_task_error",
                where={"status": "FAILED"},
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(fields=["task_name", "-id"], name="bgtask_task_name"),
        ),
        migrations.AddIndex(
            model_name="task",
            index=bgtask.db.fields.PartialIndex(
                fields=["unique_key"],
                name="bgtask_task_unique",
                unique=True,
                where={"unique_key__isnull": False},
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=bgtask.db.fields.PartialIndex(
                fields=["result_id"],
                name="bgtask_task_result",
                unique=True,
                where={"result_id__isnull": False},
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("deadline_at__isnull", False),
                        ("locked_at__isnull", False),
                        ("locked_by__isnull", False),
                        ("status", "RUNNING"),
                    ),
                    models.Q(
                        models.Q(("status", "RUNNING"), _negated=True),
                        ("deadline_at__isnull", True),
                        ("locked_at__isnull", True),
                        ("locked_by__isnull", True),
                    ),
                    _connector="OR",
                ),
                name="bgtask_task_running",
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("held_for__isnull", False), ("status", "HELD")),
                    models.Q(
                        models.Q(("status", "HELD"), _negated=True), ("held_for__isnull", True)
                    ),
                    _connector="OR",
                ),
                name="bgtask_task_held_for",
            ),
        ),
        # The way back deletes the table, and its parameters with it.
        migrations.RunPython(set_autovacuum, migrations.RunPython.noop),
    ]
