"""What an action would be done to: counted, broken down and signed, for a person to confirm."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core import signing
from django.db.models import Max
from django.utils.translation import gettext as _

from bgtask.models import Task, TaskQuerySet
from bgtask.models.manager import database_time
from bgtask.status import Status
from bgtask_admin.looking import MOST_DECODED_ROWS, Found
from bgtask_admin.selection import SEPARATOR, InvalidSelection, Selection
from bgtask_admin.verbs import ACTIONS, Action

SAMPLES, GROUPS = 3, 10
SLICE_ROWS = 2_000
_SALT = "bgtask_admin.preview"
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
    groups: tuple[Group, ...]  # The most frequent ones.
    others: int  # How many more there are.
    samples: tuple[int, ...]
    looked_at: int


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an action would be done to, as the operator saw it."""

    action: Action
    selection: Selection
    previewed_at: datetime
    high_water: int
    matched: int
    looked_at: int = 0  # By an argument: so many of the newest tasks. 0: all of them.
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    found: Found | None = field(default=None, compare=False, repr=False)

    @classmethod
    def take(cls, action: Action, selection: Selection) -> Preview:
        """Raises InvalidSelection for a filter that would mean everything."""
        selection.must_be_narrow()
        tasks = Task.objects.all()
        now = database_time(tasks.db)
        scope = scope_of(action, selection, now)
        found = selection.look(scope, MOST_DECODED_ROWS)
        return cls(
            action=action,
            selection=selection,
            previewed_at=now,
            high_water=tasks.aggregate(highest=Max("pk"))["highest"] or 0,
            matched=len(found.ids) if selection.looks_into_arguments else scope.count(),
            looked_at=found.looked_at,
            found=found,
        )

    @property
    def scope(self) -> TaskQuerySet:
        scope = scope_of(self.action, self.selection, self.previewed_at)
        scope = scope.filter(pk__lte=self.high_water)
        if not self.selection.looks_into_arguments:
            return scope
        found = self.found or self.selection.look(scope, MOST_DECODED_ROWS)
        return scope.filter(pk__in=found.ids)

    @property
    def matched_at_least(self) -> bool:
        """Whether there may be more than ``matched``."""
        return bool(self.looked_at)

    def in_words(self) -> str:
        return words_for(self.action, self.selection)

    def breakdown(self, most: int | None = None) -> Breakdown:
        """By task, queue and status; of so many only, the newest, where there are more."""
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
        Yield the newest rows first, at most so many; if all are wanted, in slices by id.

        Outside of a transaction, an open cursor of PostgreSQL fails behind a connection pooler.
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
        """What the confirmation carries: the filter and the mark, never ids by the thousand."""
        return signing.dumps(
            {
                "verb": self.action.verb.value,
                "filter": dict(self.selection.data),
                "at": self.previewed_at.isoformat(),
                "high_water": self.high_water,
                "matched": self.matched,
                "looked_at": self.looked_at,
                "key": self.key,
                "user": str(user.pk),
            },
            salt=_SALT,
            compress=True,
        )

    @classmethod
    def load(cls, text: str, user: Any) -> Preview:
        """Raises InvalidSelection for what this user was not shown, or too long ago."""
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
            key=data["key"],
        )


def scope_of(action: Action, selection: Selection, previewed_at: datetime) -> TaskQuerySet:
    """
    The tasks that are meant; of chosen ones also those that will have to be skipped.

    An argument is not asked for here: ``Selection.having`` decides about it.
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
    """Return “Failed, Cancelled · queue mail”: the statuses are those that the action means."""
    words = selection.in_words()
    if selection.status is None and not selection.is_chosen_one_by_one:
        meant = ", ".join(str(status.label) for status in Status if status in action.meant)
        words = SEPARATOR.join([meant, words]) if selection.data else meant
    return words
