"""A queryset or a list of figures becomes columns."""

from __future__ import annotations

from bgtask_admin.tables.operations import OperationTable
from bgtask_admin.tables.queues import QueueTable
from bgtask_admin.tables.tasks import TaskTable

__all__ = ["OperationTable", "QueueTable", "TaskTable"]
