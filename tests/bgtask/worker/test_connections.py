"""What a task leaves behind in its thread is put away before the next one comes."""

from __future__ import annotations

import pytest
from django.db import connection

from bgtask.worker.connections import ConnectionGuard


@pytest.mark.django_db(transaction=True)
def test_queries_that_debug_remembers_are_forgotten_after_each_task(settings):
    settings.DEBUG = True
    guard = ConnectionGuard()
    guard.before()
    connection.cursor().execute("SELECT 1")
    assert connection.queries

    guard.after("a task")

    assert not connection.queries
