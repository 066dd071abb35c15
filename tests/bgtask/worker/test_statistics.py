"""What became of attempts is counted in the minute in which they ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bgtask.lifecycle.attempts import Outcome
from bgtask.models import Task, TaskStats
from bgtask.status import AttemptOutcome, Status
from bgtask.worker.statistics import Statistics
from tests.bgtask.lifecycle.outcomes import success

NOW = datetime(2026, 3, 1, 12, 30, 20, tzinfo=UTC)


@pytest.mark.django_db
def test_statistics_keep_their_minute_if_the_clock_is_set_again():
    statistics = Statistics()
    statistics.set_clock(NOW)
    statistics.add([(success(Task(task_name="tests.tasks.noop")), "SUCCESSFUL")])

    statistics.set_clock(NOW + timedelta(days=3))
    statistics.write("default", statistics.take())

    assert TaskStats.objects.get().minute == NOW.replace(second=0)


def test_interruptions_are_not_counted():
    statistics = Statistics()
    statistics.set_clock(NOW)
    left = Outcome(Task(), Status.READY, kind=AttemptOutcome.INTERRUPTED)

    statistics.add([(left, "READY")])

    assert not statistics.take()
