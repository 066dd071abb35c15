"""Backends that behave like Django's own two, so that Django's own tests can be run with them."""

from __future__ import annotations

from functools import cached_property

from bgtask.backend import BgtaskBackend
from bgtask.models import Task
from bgtask.testing import immediately


class _Substitute(BgtaskBackend):
    @cached_property
    def checked_options(self):
        options = super().checked_options
        return {**options, "modules": options["modules"] | {"tasks.tasks"}}


class Recording(_Substitute):
    """Store tasks and remember their results, like Django's DummyBackend."""

    def __init__(self, alias, params):
        super().__init__(alias, params)
        self.results = []

    def enqueue(self, task, args, kwargs):
        self.results.append(super().enqueue(task, args, kwargs))
        return self.results[-1]

    def clear(self):
        self.results.clear()
        Task.objects.all().delete()


class Draining(_Substitute):
    """Run each task when it is enqueued, like Django's ImmediateBackend."""

    def enqueue(self, task, args, kwargs):
        with immediately(raise_errors=False):
            return super().enqueue(task, args, kwargs)
