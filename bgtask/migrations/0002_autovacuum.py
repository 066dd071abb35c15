"""Let PostgreSQL clean up after a queue as often as a queue needs it.

Each task leaves two dead rows and their index entries behind; by the default settings they would
be removed when a fifth of the table is dead, which with millions of finished tasks is never.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations

PARAMETERS = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "2000",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "1",
}


def tune(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        values = ", ".join(f"{name} = {value}" for name, value in PARAMETERS.items())
        schema_editor.execute(f"ALTER TABLE bgtask_task SET ({values})")


def reset(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"ALTER TABLE bgtask_task RESET ({', '.join(PARAMETERS)})")


class Migration(migrations.Migration):
    dependencies = [("bgtask", "0001_initial")]

    operations = [migrations.RunPython(tune, reset)]
