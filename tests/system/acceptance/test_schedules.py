"""Test schedules as workers fire them: real processes, which start, run side by side and die."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest

from bgtask.models import Schedule, Slot, Task
from bgtask.models.schedule import Decision
from bgtask.schedules import edit
from bgtask.status import Status
from tests.bgtask.schedules.conftest import make
from tests.helpers import eventually

pytestmark = pytest.mark.acceptance


@pytest.mark.sample
def test_workers_side_by_side_fire_each_slot_once(worker):
    schedule = make(name="tests.tasks.noop", every=1, overlap="allow", misfire="all")
    workers = [worker() for _ in range(3)]
    eventually(lambda: schedule.slots.count() >= 5, timeout=60)
    workers[0].kill()
    before = schedule.slots.count()
    eventually(lambda: schedule.slots.count() >= before + 5, timeout=60)
    edit.pause(schedule)
    eventually(lambda: not Task.objects.live().exists(), timeout=60)

    slots = list(schedule.slots.order_by("slot").values_list("slot", "decision", "task"))
    second = timedelta(seconds=1)
    assert [slot for slot, _, _ in slots] == [slots[0][0] + n * second for n in range(len(slots))]
    assert {decision for _, decision, _ in slots} == {Decision.ENQUEUED}
    assert sorted(task for _, _, task in slots) == sorted(
        Task.objects.succeeded().values_list("pk", flat=True)
    )


def test_a_worker_stores_and_fires_the_schedules_of_its_code(worker, newcomer):
    newcomer.has(
        "from bgtask import background, recurring\n"
        "@recurring(every=1, grace=0, key='newcomer.often')\n"
        "@background(name='newcomer.often')\n"
        "def often():\n"
        "    return 'done'\n"
    )
    # It does not know the app, and so must not fire its schedule. It would hold the task as well.
    worker("--queue=other")
    knows = worker(env=newcomer.env)
    eventually(lambda: Task.objects.filter(status=Status.SUCCESSFUL).exists(), timeout=60)
    schedule = Schedule.objects.get()
    assert (schedule.key, schedule.source) == ("newcomer.often", "code")
    label = Slot.objects.first().worker
    assert label.endswith(f":{knows.pid}")

    knows.send_signal(signal.SIGTERM)
    assert knows.wait() == 0
    before = Slot.objects.count()
    eventually(Schedule.objects.late(2).filter(grace=0).exists, timeout=60)
    assert Slot.objects.count() == before
