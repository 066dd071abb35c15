"""
A backend for Django's tasks: ``TASKS = {"default": {"BACKEND": "bgtask.backend.BgtaskBackend"}}``.

Importing this package imports no models, because a project imports its tasks before its models
are ready.
"""

from bgtask import observers, registry
from bgtask.backend.announcements import FinishObserver
from bgtask.backend.base import BgtaskBackend, BgtaskTask
from bgtask.backend.finder import task_finder
from bgtask.backend.functions import wrap
from bgtask.backend.options import task_options

__all__ = ["BgtaskBackend", "BgtaskTask", "task_options"]

registry.add_finder(task_finder)
registry.add_wrapper(wrap)
observers.add_observer(FinishObserver())
