"""Find the backends of TASKS that store their tasks in bgtask's table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from bgtask.backend import api
from bgtask.exceptions import InvalidOption


def get_backend(alias: str) -> Any | None:
    """Return the backend of this alias, or None if there is none or it is not one of bgtask."""
    try:
        backend = api.task_backends[alias]
    except ImproperlyConfigured:  # Django's InvalidTaskBackend is one.
        return None
    return backend if getattr(backend, "stores_in_bgtask", False) else None


def backends() -> Iterator[Any]:
    """Yield the backends of bgtask, in the order of TASKS."""
    for alias in api.task_backends:
        if (backend := get_backend(alias)) is not None:
            yield backend


def backend_of(alias: str) -> Any | None:
    """
    Return the backend of this alias, or else the first of bgtask, or None if there is none.

    The alias of a stored task may be gone from TASKS.
    """
    return get_backend(alias) or next(backends(), None)


def modules() -> frozenset[str]:
    """Return the modules that all these backends list in OPTIONS['modules']."""
    found: frozenset[str] = frozenset()
    for backend in backends():
        try:
            found |= backend.checked_options["modules"]
        except InvalidOption:
            continue  # A system check reports it, and each enqueue raises it.
    return found
