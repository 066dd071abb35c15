"""Tests of projects that freeze the time or travel in it, with freezegun and with time-machine."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import freezegun
import pytest
import time_machine
from django.utils import timezone

from bgtask import background, clock
from bgtask.models import Attempt, Task
from bgtask.testing import TaskFailed, immediately, run_due
from tests.bgtask.apps import App
from tests.processes import ROOT
from tests.tasks import add

WAYS = {
    "freezegun": freezegun.freeze_time,
    "freezegun-tick": lambda when: freezegun.freeze_time(when, tick=True),
    "time-machine": lambda when: time_machine.travel(when, tick=False),
    "time-machine-tick": time_machine.travel,
}
DATES = ["1971-01-01 12:00", "2020-02-29 12:00", "2030-01-01 12:00", "2200-01-01 12:00"]

at_any_date = pytest.mark.parametrize("date", DATES, ids=lambda date: date[:4])
in_any_way = pytest.mark.parametrize("travel", WAYS.values(), ids=WAYS)
# freezegun reads the attributes of every module that is loaded, deprecated ones too.
pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@background(name="tests.clocks.fails", max_attempts=2)
def fails():
    time.sleep(0.01)
    raise ValueError("no luck")


@background(name="tests.clocks.freezes")
def freezes():
    freezer = freezegun.freeze_time("2030-01-01")
    freezer.start()
    freezer.stop()


def durations():
    return list(Task.objects.exclude(duration_ms=None).values_list("duration_ms", flat=True))


@at_any_date
@in_any_way
def test_due_tasks_run_at_any_time_and_take_no_less_than_none(travel, date):
    """Kind of fault: a duration between a frozen clock and a real one is negative or absurd."""
    with travel(date):
        add(1, 2)
        (task,) = run_due()

    assert task.status == "SUCCESSFUL"
    assert 0 <= task.duration_ms < 60_000


@at_any_date
@in_any_way
def test_tasks_run_immediately_at_any_time(travel, date):
    with travel(date), immediately():
        task = add(1, 2)

    assert (task.status, task.return_value) == ("SUCCESSFUL", "3")
    assert 0 <= task.duration_ms < 60_000


@at_any_date
@in_any_way
def test_tasks_fail_at_any_time_as_usual(travel, date):
    with travel(date):
        fails()
        run_due(raise_errors=False)
        Task.objects.run_now()
        with pytest.raises(TaskFailed):
            run_due()

    assert Task.objects.get().status == "FAILED"
    assert all(0 <= duration < 60_000 for duration in durations())
    for attempt in Attempt.objects.all():
        assert attempt.started_at <= attempt.finished_at


@in_any_way
def test_a_clock_may_be_frozen_between_enqueue_and_run(travel):
    add(1, 2)
    with travel("2030-01-01"):
        add(3, 4)
        assert len(run_due(limit=10)) == 2
    assert run_due() == []


def test_a_task_may_freeze_the_clock():
    freezes()

    (task,) = run_due()

    assert task.status == "SUCCESSFUL"


@in_any_way
def test_the_clock_for_durations_moves_while_all_others_stand_still(travel):
    with travel("2030-01-01"):
        began = clock.monotonic()
        assert abs(began - clock.monotonic()) < 60
    assert 0 <= clock.monotonic() - began < 60


DRAIN = """
import freezegun, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from django.core.management import call_command
from bgtask.models import Task
from tests.tasks import add, fail
from tests.bgtask.test_frozen_clocks import WAYS

add(1, 2), fail(), add.enqueue_many([(n, n) for n in range(50)])
for name, travel in WAYS.items():
    with travel("2030-01-01"):
        add(3, 4)
        call_command("process_tasks", drain=True, threads=2)
    print(name, Task.objects.succeeded().count(), threading.active_count())
"""


@pytest.mark.django_db(transaction=True)
def test_a_worker_drains_the_queue_and_ends_while_the_clock_stands_still(app: App):
    """Kind of fault: a wait until a time that never comes. The process is killed if it hangs."""
    result = app.run("shell", "-c", DRAIN, "--verbosity=0")

    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [name, str(52 + number)] for number, name in enumerate(WAYS)
    ]


# What a travelled clock means for a schedule: README, “Testing your tasks”


@in_any_way
def test_a_travelled_clock_makes_no_scheduled_task_due_but_scheduled_runs_it(travel):
    task = add(1, 2, schedule=timedelta(hours=1))

    with travel(timezone.now() + timedelta(hours=2)):
        assert run_due() == []
        assert run_due(scheduled=True) == [task]


@in_any_way
def test_a_datetime_is_compared_with_the_clock_of_the_database(travel):
    with travel(datetime(2020, 1, 1, 12, tzinfo=UTC)):
        past = add(1, 2, schedule=timezone.now() + timedelta(hours=1))
        relative = add(3, 4, schedule=timedelta(hours=1))

    assert (past.status, past.run_at.year) == ("READY", 2020)
    assert relative.status == "SCHEDULED"
    assert relative.run_at - relative.enqueued_at == pytest.approx(
        timedelta(hours=1), abs=timedelta(seconds=1)
    )
    assert abs(datetime.now(UTC) - relative.enqueued_at) < timedelta(hours=1)


def test_no_other_module_measures_time_by_itself():
    """Kind of fault: one of two readings of the clock is frozen."""
    own = [*Path(ROOT, "bgtask").rglob("*.py"), *Path(ROOT, "bgtask_admin").rglob("*.py")]

    found = {path.name for path in own if re.search(r"(?<!`)time\.monotonic", path.read_text())}

    assert found == {"clock.py"}
