"""
Measure the queues, and judge the figures by thresholds.

The dashboard, the JSON, the metrics and the commands all use this package, so that an alert, a
graph and a page can't disagree. Nothing here writes to the database.
"""

from bgtask.health.collect import measure
from bgtask.health.error_groups import ErrorGroup, FailingNow, failing_now
from bgtask.health.evaluate import check, evaluate, only
from bgtask.health.formatting import duration, duration_parts, percent_number
from bgtask.health.history import History, Point, Series, read_history
from bgtask.health.ranking import MAX_QUEUES, select_queues, worst_first
from bgtask.health.serializers import Document, as_document, as_utc, database
from bgtask.health.thresholds import Limits, Thresholds
from bgtask.health.types import (
    Health,
    LateSchedule,
    Level,
    QueueHealth,
    Reason,
    Stopped,
    Stuck,
    Workers,
)

__all__ = [
    "MAX_QUEUES",
    "Document",
    "ErrorGroup",
    "FailingNow",
    "Health",
    "History",
    "LateSchedule",
    "Level",
    "Limits",
    "Point",
    "QueueHealth",
    "Reason",
    "Series",
    "Stopped",
    "Stuck",
    "Thresholds",
    "Workers",
    "as_document",
    "as_utc",
    "check",
    "database",
    "duration",
    "duration_parts",
    "evaluate",
    "failing_now",
    "measure",
    "only",
    "percent_number",
    "read_history",
    "select_queues",
    "worst_first",
]
