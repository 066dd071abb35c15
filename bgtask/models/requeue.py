"""Requeue tasks that take their unique keys again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, models, transaction
from django.db.models import F

PAGE_ROWS = 1_000  # A thousand parameters are within the limits of every database.


@dataclass
class Requeued:
    """How many tasks were requeued, and which were kept because other tasks hold their keys."""

    number: int = 0
    kept: dict[int, int | None] = field(default_factory=dict)  # Task → the holder of its key.


def requeue_unique(finished: models.QuerySet[Any], changes: Mapping[str, Any]) -> Requeued:
    """
    Requeue those of these finished tasks whose unique keys are free.

    Of the tasks with the same unique name, the newest takes the key. An operation calls this for
    one page of tasks at a time.
    """
    named = finished.filter(unique_name__isnull=False).order_by("-pk")
    result = Requeued()
    last = None
    while True:
        page = named if last is None else named.filter(pk__lt=last)
        rows = list(page.values_list("pk", "unique_name", "unique_key")[:PAGE_ROWS])
        if not rows:
            return result
        last = rows[-1][0]
        done = _requeue(finished, _free(finished, rows), changes)
        result.number += len(done)
        if kept := {id_: name for id_, name, _ in rows if id_ not in done}:
            holders = _holders(finished, kept.values())
            result.kept |= {id_: holders.get(name) for id_, name in kept.items()}


def _holders(tasks: models.QuerySet[Any], names: Iterable[str]) -> dict[str, int]:
    """Return the primary key of the task that holds each of these unique keys."""
    everything = tasks.model._default_manager.using(tasks.db)
    holders = everything.filter(unique_key__in=sorted(set(names)))
    return dict(holders.values_list("unique_key", "pk"))


def _free(finished: models.QuerySet[Any], rows: Sequence[tuple[int, str, str | None]]) -> list[int]:
    """Return the id of the newest task of each name, unless a task that stays holds its key."""
    holders = _holders(finished, (name for _, name, _ in rows))
    newest: dict[str, int] = {}
    for id_, name, own in rows:
        if own is not None:  # It still holds its key, for unique_for.
            newest[name] = id_
        elif name not in holders:
            newest.setdefault(name, id_)
    return sorted(newest.values())


def _requeue(
    finished: models.QuerySet[Any], ids: Sequence[int], changes: Mapping[str, Any]
) -> set[int]:
    """
    Requeue these tasks by one statement, or one by one if a key was taken meanwhile.

    Return the ids of the requeued tasks.
    """
    if not ids:
        return set()
    ours = finished.filter(pk__in=ids)
    try:
        with transaction.atomic(using=finished.db):
            if ours.update(**changes, unique_key=F("unique_name")) == len(ids):
                return set(ids)
            # Another process has requeued some of them. Which ones is found one by one.
            transaction.set_rollback(True, using=finished.db)
    except IntegrityError:
        pass
    if len(ids) == 1:
        return set()
    return set().union(*(_requeue(finished, [id_], changes) for id_ in ids))
