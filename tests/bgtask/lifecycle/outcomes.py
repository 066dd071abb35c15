"""Outcomes of every kind, as a worker would write them."""

from __future__ import annotations

from typing import Any

from bgtask.failures import Failure
from bgtask.lifecycle.attempts import Outcome
from bgtask.models import Task
from bgtask.status import AttemptOutcome, Status

FAILURE = Failure("KeyError", "no such “user”", "Traceback …\nKeyError: no such “user”", "f" * 32)


def success(task: Task, **details: Any) -> Outcome:
    return Outcome(task, Status.SUCCESSFUL, **details)


def failure(task: Task, **details: Any) -> Outcome:
    return Outcome(task, Status.FAILED, kind=AttemptOutcome.FAILED, failure=FAILURE, **details)


def retry(task: Task, *, delay: float | None = 60.0, **details: Any) -> Outcome:
    return Outcome(
        task,
        Status.SCHEDULED,
        kind=AttemptOutcome.FAILED,
        failure=FAILURE,
        delay=delay,
        **details,
    )


KINDS = {"success": success, "failure": failure, "retry": retry}
