"""
Import Django's API for tasks, by the names of this Django.

Django 6.0 has it as ``django.tasks``. For Django 5.2 it is the package django-tasks, which uses
other names here and there. No other module of bgtask imports either of them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import django

PACKAGE = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"

_package = import_module(PACKAGE)
_base = import_module(f"{PACKAGE}.base")
_exceptions = import_module(f"{PACKAGE}.exceptions")
_signals = import_module(f"{PACKAGE}.signals")
_json: Any = import_module("django.utils.json" if django.VERSION >= (6, 0) else f"{PACKAGE}.utils")

BaseTaskBackend: Any = import_module(f"{PACKAGE}.backends.base").BaseTaskBackend
Task: Any = _base.Task
TaskContext: Any = _base.TaskContext
TaskError: Any = _base.TaskError
TaskResult: Any = _base.TaskResult
TaskResultStatus: Any = _base.TaskResultStatus
SUCCESSFUL: Any = getattr(TaskResultStatus, "SUCCESSFUL", None) or TaskResultStatus.SUCCEEDED

InvalidTask: Any = getattr(_exceptions, "InvalidTask", None) or _exceptions.InvalidTaskError
InvalidTaskBackend: Any = (
    getattr(_exceptions, "InvalidTaskBackend", None) or _exceptions.InvalidTaskBackendError
)
TaskResultDoesNotExist: Any = _exceptions.TaskResultDoesNotExist

task: Any = _package.task
task_backends: Any = _package.task_backends
task_enqueued: Any = _signals.task_enqueued
task_started: Any = _signals.task_started
task_finished: Any = _signals.task_finished
normalize_json: Any = _json.normalize_json

logger = _signals.logger
# Django's own receivers, by signal. They only log.
LOG_RECEIVERS: dict[Any, Any] = {
    task_enqueued: _signals.log_task_enqueued,
    task_started: _signals.log_task_started,
    task_finished: _signals.log_task_finished,
}


def is_task(value: Any) -> bool:
    """Return whether this is a Task: Django's, or one of the package django-tasks."""
    if isinstance(value, Task):
        return True
    # Libraries may use the package on Django 6, too. Don't import it here.
    package = sys.modules.get("django_tasks.base")
    return package is not None and isinstance(value, package.Task)
