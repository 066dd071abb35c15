"""
How the queues are: figures, thresholds, and what to make of them.

The one source for the dashboard, the JSON, the metrics and the command line, so that an alert,
a graph and a page cannot disagree. Nothing here writes.
"""

from bgtask.health.errors import ErrorGroup, FailingNow, failing_now
from bgtask.health.figures import Health, Level, QueueHealth, Reason, Stuck, Workers, measure
from bgtask.health.history import History, Point, Series, history
from bgtask.health.verdict import judge, take

__all__ = [
    "ErrorGroup",
    "FailingNow",
    "Health",
    "History",
    "Level",
    "Point",
    "QueueHealth",
    "Reason",
    "Series",
    "Stuck",
    "Workers",
    "failing_now",
    "history",
    "judge",
    "measure",
    "take",
]
