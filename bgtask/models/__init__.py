from bgtask.models.attempt import Attempt
from bgtask.models.pause import QueuePause, TaskHold
from bgtask.models.schedule import Schedule, Slot
from bgtask.models.stats import QueueHistory, QueueStats, TaskStats
from bgtask.models.task import Task
from bgtask.models.task_queryset import TaskQuerySet
from bgtask.models.worker import Worker

__all__ = [
    "Attempt",
    "QueueHistory",
    "QueuePause",
    "QueueStats",
    "Schedule",
    "Slot",
    "Task",
    "TaskHold",
    "TaskQuerySet",
    "TaskStats",
    "Worker",
]
