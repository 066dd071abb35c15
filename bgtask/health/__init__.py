"""
How the queues are: figures, thresholds, and what to make of them.

The one source for the dashboard, the JSON, the metrics and the command line, so that an alert,
a graph and a page cannot disagree. Nothing here writes.
"""

from bgtask.health.document import Document, as_document, as_utc, database
from bgtask.health.failing import ErrorGroup, FailingNow, failing_now
from bgtask.health.figures import Health, Level, QueueHealth, Reason, Stopped, Stuck, Workers
from bgtask.health.history import History, Point, Series, history
from bgtask.health.limits import Limits, Thresholds
from bgtask.health.measuring import measure
from bgtask.health.notable import MOST_QUEUES, notable, worst_first
from bgtask.health.verdict import judge, only, take
from bgtask.health.words import duration, duration_parts, percent_number

__all__ = [
    "MOST_QUEUES",
    "Document",
    "ErrorGroup",
    "FailingNow",
    "Health",
    "History",
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
    "database",
    "duration",
    "duration_parts",
    "failing_now",
    "history",
    "judge",
    "measure",
    "notable",
    "only",
    "percent_number",
    "take",
    "worst_first",
]
