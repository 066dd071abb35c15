"""Check the settings of a backend: queues, options and modules."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error

from bgtask.exceptions import InvalidOption
from bgtask.options import check_queue


def check_backend(backend: Any) -> Iterator[CheckMessage]:
    place = f"TASKS[{backend.alias!r}]"
    if not apps.is_installed("bgtask"):
        yield Error(
            f"{place} stores tasks with bgtask, which is not in INSTALLED_APPS.",
            hint="Add 'bgtask' to INSTALLED_APPS, and run manage.py migrate.",
            id="bgtask.E011",
        )
    yield from _check_queues(backend, place)
    try:
        options = backend.checked_options
    except InvalidOption as error:
        yield Error(
            f"{place} has wrong OPTIONS. {error}",
            hint="See docs/django-tasks.md for the options.",
            id="bgtask.E013",
        )
        return
    yield from _check_modules(sorted(options["modules"]), place)


def _check_queues(backend: Any, place: str) -> Iterator[CheckMessage]:
    for name in sorted(backend.queues, key=str):
        try:
            check_queue(name, "A name")
        except InvalidOption as error:
            yield Error(
                f"{place}['QUEUES'] has an invalid name. {error}",
                hint="Rename the queue.",
                id="bgtask.E012",
            )


def _check_modules(modules: list[str], place: str) -> Iterator[CheckMessage]:
    for name in modules:
        try:
            import_module(name)
        except Exception as error:
            yield Error(
                f"The module {name!r} of {place}['OPTIONS']['modules'] can't be imported: "
                f"{type(error).__name__}: {error}",
                hint="Correct the name or the module. Workers can't run its tasks.",
                id="bgtask.E014",
            )
