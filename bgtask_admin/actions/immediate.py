"""Log the actions that are done at once, without steps over tasks."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.utils import timezone

from bgtask_admin.actions import run
from bgtask_admin.actions.recording import name_of
from bgtask_admin.actions.registry import Verb
from bgtask_admin.models import Operation, OperationState


def entry(
    verb: Verb,
    names: Mapping[str, str],
    user: Any,
    reason: str = "",
    options: Mapping[str, Any] | None = None,
) -> Callable[[], Operation]:
    """Return a function that stores the log entry of an action on what these names name."""
    return partial(
        Operation.objects.create,
        key=secrets.token_hex(16),
        user_id=user.pk,
        by=name_of(user),
        verb=verb,
        filter=json.dumps(dict(names)),
        filter_words=" · ".join(names.values()),
        options=json.dumps(dict(options or {})),
        reason=reason[:500],
        previewed_at=timezone.now(),
    )


def done(operation: Operation) -> None:
    operation.state = OperationState.DONE
    operation.finished_at = timezone.now()
    operation.save()
    run.log_one(operation)
