"""Keyset pagination: a page at row one million is as fast as the first page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from bgtask_admin.tasks.parsing import FIRST, LAST, id_of, in_zone, moment_of

Key = tuple[datetime | None, int]


@dataclass(frozen=True)
class KeysetPage:
    rows: list[Any]
    newer: str = ""  # ``before=…`` of the previous page, or "" if there is none.
    older: str = ""  # ``after=…`` of the next page, or "" if there is none.


@dataclass(frozen=True)
class Order:
    """The order of the rows: by (column, id), or by the id alone."""

    column: str | None = None
    ascending: bool = False

    def reversed(self) -> Order:
        return Order(self.column, not self.ascending)

    def apply(self, rows: QuerySet[Any], start: Key | None, end: Key | None) -> QuerySet[Any]:
        sign = "" if self.ascending else "-"
        if self.column is None:
            return rows.order_by(f"{sign}id")
        low, high = (start, end) if self.ascending else (end, start)
        # Use one bound per side. Given two, SQLite may choose the far one and scan from there.
        ends = (low[0] if low else in_zone(FIRST), high[0] if high else in_zone(LAST))
        rows = rows.filter(**{f"{self.column}__range": ends})
        return rows.order_by(f"{sign}{self.column}", f"{sign}id")

    def beyond(self, key: Key, *, inclusive: bool = False) -> Q:
        way = "gt" if self.ascending else "lt"
        when, id_ = key
        of_id = Q(**{f"id__{way}{'e' if inclusive else ''}": id_})
        if self.column is None:
            return of_id
        # ``apply`` also limits the column to ``when``, so the id decides only between equals.
        return Q(**{f"{self.column}__{way}": when}) | of_id

    def parse(self, text: str) -> Key:
        """Return the key from its text. Raise ValidationError if the text is not a key."""
        when, separator, number = text.rpartition("~")
        moment, id_ = moment_of(when) if separator else None, id_of(number)
        if id_ is None or bool(self.column) != (moment is not None):
            raise ValidationError(_("There is no such page."))
        return moment, id_

    def text(self, key: Key) -> str:
        when, id_ = key
        return f"{when.isoformat()}~{id_}" if self.column and when else str(id_)


@dataclass(frozen=True)
class Window:
    """The rows after a key, or from the beginning of the list, up to an optional end."""

    order: Order  # The order of reading. For a previous page, it is the reverse of the list's.
    is_forward: bool
    start: Key | None
    end: Key | None = None  # The key of the last row to look at. None: the end of the list.

    @classmethod
    def of(cls, order: Order, after: str = "", before: str = "") -> Window:
        """Return the window after or before a key. Raise ValidationError if it isn't a key."""
        key = after or before
        start = order.parse(key) if key else None
        return cls(order.reversed() if before else order, not before, start)

    def no_longer_than(self, length: int, candidates: QuerySet[Any]) -> Window:
        """
        Return this window, cut off after ``length`` candidates.

        An index alone finds ``candidates``. The rows of the page are a part of them.
        """
        last = self.keys(candidates, length - 1, length + 1)
        if len(last) < 2:
            return self
        return Window(self.order, self.is_forward, self.start, last[0])

    def within_ids(self, length: int, rows: QuerySet[Any]) -> Window:
        """
        Return this window, cut off after the next ``length`` ids, if the id alone is the order.

        This skips no rows, unlike ``no_longer_than``. ``rows`` are all rows of the table.
        """
        ids = self.order.apply(rows, None, None).values_list("pk", flat=True)
        sign = 1 if self.order.ascending else -1
        first = self.start[1] + sign if self.start else ids.first()
        last = ids.last()
        if first is None or last is None or (last - first) * sign < length:
            return self
        end = first + (length - 1) * sign
        return Window(self.order, self.is_forward, self.start, (None, end))

    def keys(self, rows: QuerySet[Any], start: int, stop: int) -> list[Key]:
        column = self.order.column
        found = self.apply(rows).values_list(column or "id", "id")[start:stop]
        return [(when if column else None, id_) for when, id_ in found]

    def apply(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        if self.start:
            rows = rows.filter(self.order.beyond(self.start))
        if self.end:
            rows = rows.filter(self.order.reversed().beyond(self.end, inclusive=True))
        return self.order.apply(rows, self.start, self.end)


def page_of(
    rows: QuerySet[Any],
    column: str | None,
    *,
    ascending: bool = False,
    after: str = "",
    before: str = "",
    size: int = 100,
) -> KeysetPage:
    """
    Return a page in the order of (column, id), or of the id alone.

    Raise ValidationError if ``after`` or ``before`` is not a key.
    """
    stretch = Window.of(Order(column, ascending), after, before)
    keys = stretch.keys(rows, 0, size + 1)
    return page_in(stretch, keys, size, lambda ids: rows.filter(pk__in=ids))


def page_in(
    stretch: Window,
    keys: list[Key],
    size: int,
    load: Callable[[Sequence[int]], Iterable[Any]],
) -> KeysetPage:
    """
    Return the page of these keys.

    The caller reads the keys first, because sorting keys moves less data than sorting whole
    rows. The next page begins where the window ends, even if the window has few rows.
    """
    order = stretch.order
    found = keys[:size]
    end = order.text(stretch.end) if stretch.end else ""
    if len(keys) > size:
        end = order.text(found[-1])
    loaded = {row.pk: row for row in load([id_ for _, id_ in found])} if found else {}
    if not stretch.is_forward:
        found.reverse()
    shown = [loaded[id_] for _, id_ in found if id_ in loaded]
    first, last = (order.text(found[0]), order.text(found[-1])) if found else ("", "")
    if stretch.is_forward:
        return KeysetPage(shown, newer=first if stretch.start else "", older=end)
    return KeysetPage(shown, newer=end, older=last)
