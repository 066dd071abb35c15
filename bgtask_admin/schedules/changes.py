"""Change schedules as operators do, each change with its entry in the operations log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from bgtask.models import Schedule, Task
from bgtask.schedules import edit
from bgtask.schedules.definition import Definition
from bgtask.schedules.fire import enqueue_by_hand
from bgtask.values import cut_end
from bgtask_admin.actions.immediate import done, entry
from bgtask_admin.actions.recording import name_of, recorded
from bgtask_admin.actions.registry import Verb
from bgtask_admin.models import Operation
from bgtask_admin.ui.arguments import masked

PARAMETERS = "task_params"  # Only users who may see arguments see this value in the log.
MAX_VALUE_CHARACTERS = 500


def create(key: str, definition: Definition, *, user: Any) -> Schedule:
    """Store a new schedule. Raise InvalidOption if the key is taken or there is no slot."""
    values = {name: _plain(name, value) for name, value in vars(definition).items() if value}
    with _logged(Verb.CREATE_SCHEDULE, key, user, options=values):
        return edit.create(key, definition)


def change(schedule: Schedule, definition: Definition, *, user: Any, reason: str = "") -> None:
    """Give the schedule another definition. Raise InvalidOption if there is no slot."""
    before = Definition.of(schedule)
    with _logged(Verb.CHANGE_SCHEDULE, schedule.key, user, reason, differences(before, definition)):
        _check(edit.change(schedule, definition, by=name_of(user)))


def restore(schedule: Schedule, *, user: Any) -> None:
    """Go back to the definition of the code. Raise ValidationError if nothing overrides it."""
    _check(schedule.is_overridden and bool(schedule.declared))
    after = Definition.from_json(schedule.declared)
    options = differences(Definition.of(schedule), after)
    with _logged(Verb.RESTORE_SCHEDULE, schedule.key, user, options=options):
        _check(edit.restore(schedule))


def pause(schedule: Schedule, *, user: Any, reason: str = "") -> None:
    with _logged(Verb.PAUSE_SCHEDULE, schedule.key, user, reason):
        _check(edit.pause(schedule, by=name_of(user), reason=reason[:500]))


def resume(schedule: Schedule, *, user: Any) -> None:
    with _logged(Verb.RESUME_SCHEDULE, schedule.key, user):
        _check(edit.resume(schedule))


def run_now(schedule: Schedule, *, user: Any) -> Task:
    with _logged(Verb.RUN_SCHEDULE, schedule.key, user):
        return enqueue_by_hand(schedule, name_of(user))


def delete(schedule: Schedule, *, user: Any) -> None:
    with _logged(Verb.DELETE_SCHEDULE, schedule.key, user):
        _check(edit.delete(schedule))


def operations_on(schedule: Schedule) -> Any:
    """Return the entries of the log about this schedule, the newest first."""
    return Operation.objects.filter(filter=json.dumps({"schedule": schedule.key})).order_by("-pk")


def differences(before: Definition, after: Definition) -> dict[str, str]:
    """Return the values that differ, as “before → after”, by the name of the column."""
    old, new = vars(before), vars(after)
    return {
        name: f"{_plain(name, old[name])} → {_plain(name, new[name])}"
        for name in old
        if old[name] != new[name]
    }


def _plain(name: str, value: Any) -> str:
    if name == PARAMETERS:
        try:
            value = json.dumps(masked(json.loads(value)), ensure_ascii=False)
        except ValueError:  # The row was edited by hand.
            value = "?"
    return cut_end("–" if value in (None, "") else str(value), MAX_VALUE_CHARACTERS)


def _check(is_done: bool) -> None:
    if not is_done:
        raise ValidationError(_("The schedule has changed meanwhile. Nothing was done."))


@contextmanager
def _logged(
    verb: Verb, key: str, user: Any, reason: str = "", options: dict[str, Any] | None = None
) -> Iterator[None]:
    with recorded(entry(verb, {"schedule": key}, user, reason, options), done) as operation:
        operation.matched = operation.changed = 1
        yield
