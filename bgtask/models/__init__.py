from bgtask.models.attempt import Attempt
from bgtask.models.deletion import Deletion
from bgtask.models.pause import Hold, Queue
from bgtask.models.stats import QueueHistory, QueueStats, TaskStats
from bgtask.models.task import Task
from bgtask.models.task_queryset import TaskQuerySet
from bgtask.models.worker import Worker

__all__ = [
    "Attempt",
    "Deletion",
    "Hold",
    "Queue",
    "QueueHistory",
    "QueueStats",
    "Task",
    "TaskQuerySet",
    "TaskStats",
    "Worker",
]
