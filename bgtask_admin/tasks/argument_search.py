"""Search a limited number of tasks for an argument, in slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bgtask.models import Task, TaskQuerySet
from bgtask.models.arguments import Argument

MAX_ROWS = 10_000
MAX_DECODED_ROWS = 3_000  # Limit for a page, because decoding parameters takes the longest.
SLICE_ROWS = 1_000


@dataclass(frozen=True)
class Found:
    """The ids of the tasks that have the argument, the newest first."""

    ids: list[int] = field(default_factory=list)
    searched: int = 0  # Number of newest tasks that were searched. 0: all tasks.


def search_newest(argument: Argument, tasks: TaskQuerySet, most_decoded: int = MAX_ROWS) -> Found:
    """Search the newest of these tasks for the argument."""
    newest = tasks.order_by("-pk").values_list("pk", flat=True)[: MAX_ROWS + 1]
    window = list(newest)
    is_all = len(window) <= MAX_ROWS
    window = window[:MAX_ROWS]
    if not window:
        return Found()
    rows = tasks.filter(argument.candidates(), pk__range=(window[-1], window[0])).order_by("-pk")
    found: list[int] = []
    last, decoded = window[0] + 1, 0
    while True:
        page = list(rows.filter(pk__lt=last).values_list(*_COLUMNS)[:SLICE_ROWS])
        found += [pk for pk, name, params in page if argument.fits(name, params)]
        if len(page) < SLICE_ROWS:
            return Found(found, searched=0 if is_all else len(window))
        last = page[-1][0]
        decoded += len(page)
        if decoded >= most_decoded and last > window[-1]:
            return Found(found, searched=sum(pk >= last for pk in window))


def having(argument: Argument, ids: Sequence[int]) -> list[int]:
    """Return the ids of the tasks that have the argument, in the given order."""
    found: set[int] = set()
    for some in _slices(ids):
        rows = Task.objects.filter(argument.candidates(), pk__in=some).values_list(*_COLUMNS)
        found.update(pk for pk, name, params in rows if argument.fits(name, params))
    return [pk for pk in ids if pk in found]


_COLUMNS = ("pk", "task_name", "task_params")


def _slices(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), SLICE_ROWS):
        yield ids[start : start + SLICE_ROWS]
