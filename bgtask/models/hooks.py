"""
Functions that the models need from ``bgtask.lifecycle``, which is a higher layer.

``lifecycle`` sets these functions when it is imported. ``BgtaskConfig`` imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

store_task: Callable[..., Any]
store_tasks: Callable[..., int]
cancel_running: Callable[[Any], int]
