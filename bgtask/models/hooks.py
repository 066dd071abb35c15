"""
Functions of higher layers that the models and the dashboard need.

``lifecycle`` sets its functions when it is imported, and ``BgtaskConfig`` imports it.
``schedules`` does the same. ``BgtaskConfig`` itself sets ``dispatch_rescued``, which is a function
of the worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

store_task: Callable[..., Any]
store_tasks: Callable[..., int]
cancel_running: Callable[[Any], int]
create_schedule: Callable[..., Any]
# Log, signal and count rescued tasks. Call it after the rescue is committed.
dispatch_rescued: Callable[[list[Any]], None]
