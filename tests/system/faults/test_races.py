"""Let many threads fire schedules and enqueue unique tasks at once, and count what they stored."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from itertools import count

import pytest
from django.db import OperationalError, connection

from bgtask import background
from bgtask.db.refusals import is_deadlock
from bgtask.lifecycle.claim import claim_queue
from bgtask.lifecycle.finish import finish_attempts
from bgtask.lifecycle.promote import promote_due
from bgtask.models import Schedule, Slot, Task, Worker
from bgtask.models.schedule import Decision
from bgtask.schedules import edit, fire
from bgtask.schedules.definition import Definition
from bgtask.status import LIVE
from tests.bgtask.lifecycle.outcomes import failure, retry, success
from tests.bgtask.schedules.conftest import make
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db(transaction=True)

FIRST, FOR_LONG = 6.0, 60.0  # Seconds.
SECONDS = [
    pytest.param(FIRST, marks=[pytest.mark.slow, pytest.mark.sample], id="seconds"),
    pytest.param(FOR_LONG, marks=pytest.mark.thorough, id="a minute"),
]
SCHEDULES = 20
KEYS = 30


class Crash(BaseException):
    """Ends a transaction as the death of its process would."""


@background(name="tests.races.unique", unique="race:{number}", max_attempts=25)
def unique(number, when=0):
    pass


@pytest.mark.parametrize("seconds", SECONDS)
def test_each_slot_has_one_task_beside_an_editor_and_crashes(seconds, monkeypatch):
    for number in range(SCHEDULES):
        make(f"race.{number}", every=1, overlap="allow", misfire="all")
    carry_out = fire._carry_out
    crashes = Counter()
    calls = count()

    def carry_out_or_crash(*args):
        carry_out(*args)
        if next(calls) % 20 == 2:
            crashes["all"] += 1
            raise Crash

    monkeypatch.setattr(fire, "_carry_out", carry_out_or_crash)
    end = time.monotonic() + seconds

    def fire_all():
        while time.monotonic() < end:
            with suppress(Crash):
                fire.fire_due()
            time.sleep(random.uniform(0, 0.05))

    def edit_some():
        dice = random.Random(1)
        while time.monotonic() < end:
            schedule = Schedule.objects.get(key=f"race.{dice.randrange(SCHEDULES)}")
            changed = {**vars(Definition.of(schedule)), "jitter": dice.randrange(3)}
            with suppress(Crash):
                edit.change(schedule, Definition(**changed))
            time.sleep(0.02)

    all_at_once(*[fire_all] * 6, edit_some, timeout=seconds + 60)

    monkeypatch.undo()
    fire.fire_due()  # Catch up, however slow the threads were.

    assert crashes["all"]
    assert Slot.objects.count() >= SCHEDULES * (seconds - 2) / 2
    enqueued = Slot.objects.filter(decision=Decision.ENQUEUED)
    tasks = list(enqueued.values_list("task", flat=True))
    assert len(tasks) == len(set(tasks)) == Task.objects.count()
    assert set(tasks) == set(Task.objects.values_list("pk", flat=True))
    assert Slot.objects.count() == len(tasks)
    for schedule in Schedule.objects.all():
        slots = list(schedule.slots.order_by("slot").values_list("slot", flat=True))
        second = timedelta(seconds=1)
        assert slots == [slots[0] + number * second for number in range(len(slots))]


@pytest.mark.parametrize("seconds", SECONDS)
def test_two_live_tasks_never_have_one_name_and_workers_never_deadlock(seconds):
    end = time.monotonic() + seconds
    errors = Counter()
    done = Counter()

    def enqueue(dice):
        while time.monotonic() < end:
            try:
                if dice.random() < 0.2:
                    unique.enqueue_many([(dice.randrange(KEYS),) for _ in range(10)])
                else:
                    on_conflict = dice.choice(["skip", "replace"])
                    task = unique.using(on_conflict=on_conflict)(dice.randrange(KEYS))
                    assert task.pk
            except OperationalError as error:
                if not (connection.vendor == "mysql" and is_deadlock(error)):
                    raise
                errors["enqueue"] += 1

    def work(dice):
        worker = Worker.register()
        while time.monotonic() < end:
            promote_due()
            tasks = claim_queue(worker, "default", 5)
            kinds = [success, success, failure, lambda task: retry(task, delay=0.0)]
            outcomes = [dice.choice(kinds)(task) for task in tasks]
            done["tasks"] += len(finish_attempts(outcomes))

    def look():
        while time.monotonic() < end:
            live = Task.objects.filter(status__in=LIVE).values_list("unique_name", flat=True)
            twice = [name for name, number in Counter(live).items() if number > 1]
            # The statement reads one state of the table, on each database.
            assert not twice
            time.sleep(0.02)

    dice = [random.Random(number) for number in range(10)]
    all_at_once(
        *[lambda one=one: enqueue(one) for one in dice[:8]],
        *[lambda one=one: work(one) for one in dice[8:]],
        look,
        timeout=seconds + 60,
    )

    assert done["tasks"] > 50
    assert errors["enqueue"] <= done["tasks"] / 50
