"""A task of Django's API that does the same as ``noop``. Django 5.2 needs django-tasks for it."""

from __future__ import annotations

import time
from typing import Any

from bgtask.backend import api
from tests.benchmarks import probe

task: Any = api.task


@task
def django_noop(number):
    probe.saw(number, time.monotonic())
