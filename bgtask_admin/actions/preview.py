"""Count, break down and sign the tasks of an action, so that an operator can confirm it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core import signing
from django.db.models import Max
from django.utils.translation import gettext as _

from bgtask.db.routing import database_now
from bgtask.models import Task, TaskQuerySet
from bgtask.status import Status
from bgtask_admin.actions.registry import ACTIONS, Action
from bgtask_admin.tasks.bounds import bounded
from bgtask_admin.tasks.looking import MOST_DECODED_ROWS, Found
from bgtask_admin.tasks.selection import SEPARATOR, InvalidSelection, Selection

SAMPLES, GROUPS = 3, 10
SLICE_ROWS = 2_000
_SALT = "bgtask_admin.actions.preview"
_VALID = 24 * 3_600  # Seconds for which a preview may be confirmed.


@dataclass
class Group:
    task_name: str
    queue: str
    status: str
    oldest: datetime
    newest: datetime
    count: int = 0


@dataclass(frozen=True)
class Breakdown:
    groups: tuple[Group, ...]  # The largest groups.
    others: int  # Number of further groups.
    samples: tuple[int, ...]
    looked_at: int

    @property
    def runs_again(self) -> bool:
        """Return whether some of the tasks were successful."""
        return any(group.status == Status.SUCCESSFUL for group in self.groups)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """An action and its tasks, as the operator saw them."""

    action: Action
    selection: Selection
    previewed_at: datetime
    high_water: int
    matched: int
    looked_at: int = 0  # Number of newest tasks that were read to count. 0: all.
    above: int = 0  # The breakdown reads only tasks with a greater id.
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    found: Found | None = field(default=None, compare=False, repr=False)

    @classmethod
    def take(cls, action: Action, selection: Selection) -> Preview:
        """Return a preview of the action. Raise InvalidSelection if the filter is empty."""
        selection.must_be_narrow()
        tasks = Task.objects.all()
        now = database_now(tasks.db)
        scope = scope_of(action, selection, now)
        statuses = [selection.status] if selection.status else action.meant
        bounds = bounded(selection, scope, statuses)
        found = selection.look(bounds.within(), MOST_DECODED_ROWS)
        has_argument = selection.looks_into_arguments
        return cls(
            action=action,
            selection=selection,
            previewed_at=now,
            high_water=tasks.aggregate(highest=Max("pk"))["highest"] or 0,
            matched=len(found.ids) if has_argument else bounds.count(selection),
            looked_at=found.looked_at or bounds.looked_at,
            above=bounds.above,
            found=found,
        )

    @property
    def scope(self) -> TaskQuerySet:
        scope = scope_of(self.action, self.selection, self.previewed_at)
        scope = scope.filter(pk__gt=self.above, pk__lte=self.high_water)
        if not self.selection.looks_into_arguments:
            return scope
        found = self.found or self.selection.look(scope, MOST_DECODED_ROWS)
        return scope.filter(pk__in=found.ids)

    @property
    def matched_at_least(self) -> bool:
        """Return whether more tasks than ``matched`` may match."""
        return bool(self.looked_at)

    def in_words(self) -> str:
        return words_for(self.action, self.selection)

    def breakdown(self, most: int | None = None) -> Breakdown:
        """
        Count the tasks by name, queue and status.

        If more than ``most`` tasks match, count only that number of the newest.
        """
        groups: dict[tuple[str, ...], Group] = {}
        samples: list[int] = []
        number = 0
        for pk, name, queue, status, enqueued in self._rows(most):
            number += 1
            if number <= SAMPLES:
                samples.append(pk)
            group = groups.setdefault(
                (name, queue, status), Group(name, queue, status, enqueued, enqueued)
            )
            group.count += 1
            group.oldest = min(group.oldest, enqueued)
            group.newest = max(group.newest, enqueued)
        most_frequent = sorted(groups.values(), key=lambda g: (-g.count, g.task_name, g.queue))
        return Breakdown(
            groups=tuple(most_frequent[:GROUPS]),
            others=len(most_frequent[GROUPS:]),
            samples=tuple(samples),
            looked_at=number,
        )

    def _rows(self, most: int | None) -> Iterator[tuple[int, str, str, str, datetime]]:
        """
        Yield at most ``most`` rows, the newest first. None: read all rows, in slices by id.

        Slices need no open cursor. Outside of a transaction, an open cursor of PostgreSQL fails
        behind a connection pooler.
        """
        columns = ("pk", "task_name", "queue", "status", "enqueued_at")
        if most is not None:
            column = self.selection.time_column
            rows = self.scope.order_by(*([f"-{column}"] if column else []), "-pk")
            yield from list(rows.values_list(*columns)[:most])
            return
        last = self.high_water + 1
        while found := list(
            self.scope.filter(pk__lt=last).order_by("-pk").values_list(*columns)[:SLICE_ROWS]
        ):
            yield from found
            last = found[-1][0]

    def signed(self, user: Any) -> str:
        """
        Return the signed text that the form of confirmation carries.

        It holds the filter and the high-water mark, never thousands of ids.
        """
        return signing.dumps(
            {
                "verb": self.action.verb.value,
                "filter": dict(self.selection.data),
                "at": self.previewed_at.isoformat(),
                "high_water": self.high_water,
                "matched": self.matched,
                "looked_at": self.looked_at,
                "above": self.above,
                "key": self.key,
                "user": str(user.pk),
            },
            salt=_SALT,
            compress=True,
        )

    @classmethod
    def load(cls, text: str, user: Any) -> Preview:
        """
        Return the preview from a signed text.

        Raise InvalidSelection if this user did not see the preview, or saw it too long ago.
        """
        try:
            data = signing.loads(text, salt=_SALT, max_age=_VALID)
        except signing.SignatureExpired:
            raise InvalidSelection(_("This page is too old. Please look again.")) from None
        except signing.BadSignature:
            raise InvalidSelection(_("This confirmation is not valid.")) from None
        if data["user"] != str(user.pk):
            raise InvalidSelection(_("This confirmation belongs to somebody else."))
        return cls(
            action=ACTIONS[data["verb"]],
            selection=Selection.parse_narrow(data["filter"]),
            previewed_at=datetime.fromisoformat(data["at"]),
            high_water=data["high_water"],
            matched=data["matched"],
            looked_at=data.get("looked_at", 0),
            above=data.get("above", 0),
            key=data["key"],
        )


def scope_of(action: Action, selection: Selection, previewed_at: datetime) -> TaskQuerySet:
    """
    Return the tasks of the action.

    If the operator chose tasks one by one, include those that the action must skip. This
    function ignores the argument of the filter; ``Selection.having`` checks the argument.
    """
    tasks = selection.without("argument").candidates()
    if selection.is_chosen_one_by_one:
        return tasks
    if selection.status is None:
        tasks = tasks.filter(status__in=sorted(action.meant))
    elif selection.status not in action.statuses:
        return tasks.none()
    return tasks.filter(action.narrow(previewed_at))


def words_for(action: Action, selection: Selection) -> str:
    """Return a text such as “Failed, Cancelled · queue mail”, with the action's statuses."""
    words = selection.in_words()
    if selection.status is None and not selection.is_chosen_one_by_one:
        meant = ", ".join(str(status.label) for status in Status if status in action.meant)
        words = SEPARATOR.join([meant, words]) if selection.data else meant
    return words
