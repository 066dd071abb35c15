"""
What the models need from ``bgtask.lifecycle``, which is above them.

``lifecycle`` sets these when it is imported, which ``BgtaskConfig`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

store_task: Callable[..., Any]
store_tasks: Callable[..., int]
cancel_running: Callable[[Any], int]
