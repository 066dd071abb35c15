"""The periodic jobs of every worker."""

from __future__ import annotations

import pytest

from bgtask.db import DatabaseNow
from bgtask.models import QueuePause, Task, TaskHold, Worker
from bgtask.status import HeldFor, Status, WorkerState
from bgtask.worker import maintenance
from tests.factories import HoldFactory, PauseFactory, TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db


class TestRescue:
    @pytest.fixture
    def task(self):
        return TaskFactory(status=Status.RUNNING, locked_by=WorkerFactory(silent=True))

    def test_rescue_leaves_silent_workers_alone_while_it_may_not_judge(self, task):
        """Kind of fault: after an outage, the first worker back declares all others dead."""
        maintenance.rescue(False, lambda rescued: None)

        assert Worker.objects.get().state == WorkerState.ALIVE
        assert Task.objects.get().status == Status.RUNNING

    def test_rescue_declares_silent_workers_dead_and_reports_their_tasks(self, task):
        told = []

        maintenance.rescue(True, told.extend)

        assert Worker.objects.get().state == WorkerState.DEAD
        assert [outcome.task for outcome in told] == [task]
        assert Task.objects.get().status == Status.READY


class TestUnhold:
    def test_maintenance_ends_only_holds_and_pauses_that_are_over(self):
        times = {"over": DatabaseNow(-1), "later": DatabaseNow(3600), "never": None}
        for name, when in times.items():
            PauseFactory(queue=name, expires_at=when)
            HoldFactory(task_name=name, expires_at=when)
            TaskFactory(task_name=name, status=Status.HELD, held_for=HeldFor.TYPE)

        assert maintenance.unhold() == 1

        assert Task.objects.ready().get().task_name == "over"
        assert set(QueuePause.objects.values_list("queue", flat=True)) == {"later", "never"}
        assert set(TaskHold.objects.values_list("task_name", flat=True)) == {"later", "never"}
