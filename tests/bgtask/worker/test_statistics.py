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
def test_the_clock_may_be_set_again_before_they_are_written():
    statistics = Statistics()
    statistics.set_clock(NOW)
    statistics.add([(success(Task(task_name="tests.tasks.noop")), "SUCCESSFUL")])

    statistics.set_clock(NOW + timedelta(days=3))
    statistics.write("default", statistics.take())

    assert TaskStats.objects.get().minute == NOW.replace(second=0)


def test_an_interruption_is_no_more_an_outcome_than_what_is_given_back_unstarted():
    statistics = Statistics()
    statistics.set_clock(NOW)
    left = Outcome(Task(), Status.READY, kind=AttemptOutcome.INTERRUPTED)

    statistics.add([(left, "READY")])

    assert not statistics.take()
