"""Look through tasks for an argument: in slices, and through so many at most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bgtask.models import Task, TaskQuerySet
from bgtask.models.arguments import Argument

MOST_ROWS = 10_000
SLICE_ROWS = 200  # Parameters may be long, so few are in memory at once.


@dataclass(frozen=True)
class Found:
    """The tasks that have the argument, the newest first."""

    ids: list[int] = field(default_factory=list)
    is_all: bool = True  # False: there are older tasks that were not looked at.


def look(argument: Argument, tasks: TaskQuerySet) -> Found:
    """Look through the newest of these tasks."""
    newest = tasks.order_by("-pk").values_list("pk", flat=True)[: MOST_ROWS + 1]
    ids = list(newest)
    if not ids:
        return Found()
    window = ids[:MOST_ROWS]
    rows = tasks.filter(argument.candidates(), pk__range=(window[-1], window[0])).order_by("-pk")
    found: list[int] = []
    last = window[0] + 1
    while page := list(rows.filter(pk__lt=last).values_list(*_COLUMNS)[:SLICE_ROWS]):
        found += [pk for pk, name, params in page if argument.fits(name, params)]
        last = page[-1][0]
    return Found(found, is_all=len(ids) <= MOST_ROWS)


def having(argument: Argument, ids: Sequence[int]) -> list[int]:
    """Return those of these tasks that have the argument, in their order."""
    found: set[int] = set()
    for some in _slices(ids):
        rows = Task.objects.filter(argument.candidates(), pk__in=some).values_list(*_COLUMNS)
        found.update(pk for pk, name, params in rows if argument.fits(name, params))
    return [pk for pk in ids if pk in found]


_COLUMNS = ("pk", "task_name", "task_params")


def _slices(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), SLICE_ROWS):
        yield ids[start : start + SLICE_ROWS]
