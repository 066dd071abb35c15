"""
Test that each slot that is due gets one decision and one task.

The module is long because each rule of a schedule and each race is tested.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError

from bgtask.db import DatabaseNow
from bgtask.models import Schedule, Slot, Task
from bgtask.models.schedule import Decision
from bgtask.schedules import fire
from bgtask.schedules.definition import as_stored, in_utc
from bgtask.schedules.fire import enqueue_by_hand, fire_due, seconds_to_next
from bgtask.status import Status
from bgtask.testing import run_due
from bgtask.worker.maintenance import MAX_FIRE_SECONDS, Maintenance
from tests.bgtask.schedules import functions
from tests.bgtask.schedules.conftest import make, now
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db


def decisions(schedule):
    rows = Slot.objects.filter(schedule=schedule).order_by("pk")
    return list(rows.values_list("decision", "missed"))


def test_a_slot_that_is_due_gets_a_task():
    schedule = make(ago=5, params='[["weekly"], {"number": 3}]')

    assert fire_due("host:1") == 1

    task = Task.objects.get()
    assert (task.task_name, task.params()) == (schedule.task_name, (["weekly"], {"number": 3}))
    assert (task.queue, task.priority, task.status) == ("reports", 2, Status.READY)
    slot = Slot.objects.get()
    assert (slot.decision, slot.task, slot.worker) == (Decision.ENQUEUED, task.pk, "host:1")
    assert task.run_at == slot.slot == schedule.next_at
    schedule.refresh_from_db()
    assert (schedule.last_slot, schedule.last_task) == (slot.slot, task.pk)
    assert schedule.next_at - slot.slot == timedelta(hours=1)


def test_nothing_is_fired_before_its_time_and_nothing_twice():
    make(ago=-60)
    assert fire_due() == 0
    Schedule.objects.update(next_at=DatabaseNow(-1))
    assert fire_due() == 1
    assert fire_due() == 0
    assert Task.objects.count() == 1


def test_the_task_knows_its_slot():
    schedule = make(ago=5)
    fire_due()
    run_due()
    enqueue_by_hand(schedule)
    functions.report()
    run_due()
    assert functions.slots == [schedule.next_at, None, None]


def test_options_of_the_schedule_go_before_those_of_the_function():
    make(ago=5, queue="other", priority=-1)
    fire_due()
    assert Task.objects.values_list("queue", "priority").get() == ("other", -1)


def test_jitter_delays_the_task_and_not_the_slot():
    schedule = make(ago=5, jitter=3600)
    fire_due()
    task = Task.objects.get()
    assert task.run_at > Slot.objects.get().slot == schedule.next_at
    assert task.run_at < schedule.next_at + timedelta(hours=1)


def test_an_unknown_function_is_enqueued_and_held_by_a_worker():
    make(ago=5, name="tests.unknown_to_all")
    fire_due()
    run_due()
    assert Task.objects.get().status == Status.HELD


def test_parameters_that_no_longer_fit_fail_the_task():
    make(ago=5, params="[[1, 2, 3, 4], {}]")
    make("tests.unique", ago=5, name="tests.once_at_a_time", params="[[1, 2, 3, 4], {}]")
    fire_due()
    run_due(raise_errors=False)
    assert list(Task.objects.values_list("error_class", flat=True)) == ["TypeError"] * 2


class TestMissed:
    def test_one_task_stands_for_all(self):
        schedule = make(ago=5 * 3600 + 5)
        fire_due()
        assert decisions(schedule) == [("enqueued", 5)]
        assert Task.objects.count() == 1

    def test_none(self):
        schedule = make(ago=5 * 3600 + 5, misfire="none")
        fire_due()
        assert decisions(schedule) == [("missed", 5), ("enqueued", 0)]

    def test_all(self):
        schedule = make(ago=3 * 3600 + 5, misfire="all", overlap="allow")
        fire_due()
        assert decisions(schedule) == [("enqueued", 0)] * 4
        assert Task.objects.count() == 4

    def test_all_of_very_many_are_caught_up_in_one_turn(self):
        schedule = make(ago=250 * 60 + 5, every=60, misfire="all", overlap="allow")
        fire_due()
        assert schedule.slots.count() == Task.objects.count() == 251
        assert fire_due() == 0


class TestOverlap:
    def fire_twice(self, overlap, status=Status.READY):
        schedule = make(ago=3605, overlap=overlap, misfire="all")
        Schedule.objects.update(next_at=schedule.next_at + timedelta(hours=1))
        fire_due()
        first = Task.objects.get()
        if status != Status.READY:
            Task.objects.update(status=status, finished_at=DatabaseNow())
        Schedule.objects.update(next_at=DatabaseNow(-1))
        fire_due()
        return schedule, first

    def test_skip_leaves_out_a_slot_while_the_last_task_is_live(self):
        schedule, first = self.fire_twice("skip")
        assert decisions(schedule) == [("enqueued", 0), ("busy", 0)]
        assert Task.objects.get() == first
        assert Slot.objects.last().task == first.pk

    def test_skip_runs_if_the_last_task_has_ended(self):
        schedule, _ = self.fire_twice("skip", Status.SUCCESSFUL)
        assert decisions(schedule) == [("enqueued", 0)] * 2

    def test_allow_runs_both(self):
        self.fire_twice("allow")
        assert Task.objects.ready().count() == 2

    def test_cancel_cancels_the_last_task(self):
        schedule, first = self.fire_twice("cancel")
        first.refresh_from_db()
        assert first.status == Status.CANCELLED
        assert decisions(schedule) == [("enqueued", 0)] * 2

    def test_a_day_of_a_paused_queue_leaves_one_task(self):
        schedule = make(ago=24 * 3600 + 5, misfire="all")
        fire_due()
        assert decisions(schedule) == [("enqueued", 0)] + [("busy", 0)] * 24

    @pytest.mark.parametrize("function", [functions.once_at_a_time, functions.strictly_once])
    def test_a_unique_function_that_is_there_counts_as_busy(self, function):
        schedule = make(ago=5, name=function.name)
        there = function()
        fire_due()
        assert decisions(schedule) == [("busy", 0)]
        assert Slot.objects.get().task == there.pk
        assert Task.objects.count() == 1


class TestGuard:
    def test_of_several_processes_one_decides(self, transactional_db):
        for number in range(5):
            make(f"tests.{number}", ago=5)
        fired = all_at_once(*[fire_due] * 4)
        assert sum(fired) == 5
        assert Task.objects.count() == Slot.objects.count() == 5

    @pytest.mark.parametrize(
        "change",
        [
            {"revision": 1},
            {"next_at": DatabaseNow(60)},
            {"paused_at": DatabaseNow()},
            {"retired_at": DatabaseNow()},
        ],
    )
    def test_a_row_that_has_changed_since_it_was_read_is_not_fired(self, change):
        schedule = make(ago=5)
        Schedule.objects.update(**change)
        fire.fire_locked(schedule, now())
        assert not Task.objects.exists()
        assert not Slot.objects.exists()

    def test_a_crash_after_the_guard_leaves_the_slot_undecided(self, monkeypatch):
        make(ago=5)

        def crash(*args):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(fire, "_carry_out", crash)
            with pytest.raises(KeyboardInterrupt):
                fire_due()
        assert fire_due() == 1
        assert Task.objects.count() == 1

    def test_slots_that_were_decided_before_the_clock_went_back_stay_decided(self):
        schedule = make(ago=5)
        fire_due()
        Schedule.objects.update(next_at=schedule.next_at)
        assert fire_due() == 1
        assert Task.objects.count() == Slot.objects.count() == 1

    def test_a_schedule_that_can_not_be_decided_keeps_no_other(self, caplog):
        broken = make("tests.broken", ago=50)
        make(ago=5)
        Schedule.objects.filter(pk=broken.pk).update(time_zone="Nowhere/Town")
        assert fire_due() == 1
        assert Task.objects.count() == 1
        assert "tests.broken can't be decided" in caplog.text

    def test_a_broken_schedule_neither_fills_the_log_nor_keeps_the_worker_busy(self, caplog):
        make(ago=50)
        Schedule.objects.update(time_zone="Nowhere/Town")
        for _ in range(9):
            assert fire_due() == 0
        assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1
        maintenance = Maintenance(
            may_judge=lambda: True, is_idle=lambda: True, on_rescued=lambda outcomes: None
        )
        assert maintenance._fire() == MAX_FIRE_SECONDS
        make("tests.soon", ago=-3)
        assert 0 < maintenance._fire() < 4

    def test_an_outage_is_raised(self, monkeypatch):
        make(ago=5)

        def outage(*args):
            raise DatabaseError("gone")

        monkeypatch.setattr(fire, "_carry_out", outage)
        monkeypatch.setattr(fire, "is_about_data", lambda error: False)
        with pytest.raises(DatabaseError):
            fire_due()


class TestWhoFires:
    def test_a_schedule_of_code_is_fired_only_where_the_code_declares_it(self, declared):
        make("tests.often", ago=5)
        Schedule.objects.update(source="code")
        ours = declared.pop("tests.often")
        assert fire_due() == 0
        declared["tests.often"] = ours
        assert fire_due() == 1
        assert seconds_to_next() == pytest.approx(3595, abs=5)
        del declared["tests.often"]
        assert seconds_to_next() is None

    def test_very_many_declared_schedules_are_sorted_out_in_python(self, declared, monkeypatch):
        monkeypatch.setattr(fire, "MAX_KEYS", 1)
        monkeypatch.setattr(fire, "PAGE_ROWS", 2)
        for number in range(5):
            make(f"tests.foreign{number}", ago=50)
        Schedule.objects.update(source="code")
        make("tests.admins", ago=5)
        assert fire_due() == 1
        assert Slot.objects.get().schedule.key == "tests.admins"

    @pytest.mark.parametrize("column", ["paused_at", "retired_at"])
    def test_a_schedule_that_is_paused_or_retired_is_not_fired(self, column):
        make(ago=5)
        Schedule.objects.update(**{column: DatabaseNow()})
        assert fire_due() == 0

    def test_more_schedules_than_a_page(self, monkeypatch):
        monkeypatch.setattr(fire, "PAGE_ROWS", 3)
        for number in range(10):
            make(f"tests.{number}", ago=5)
        assert fire_due() == 10
        assert Task.objects.count() == 10


def test_the_next_slot_is_known():
    assert seconds_to_next() is None
    make(ago=-100)
    make("tests.later", ago=-500)
    assert seconds_to_next() == pytest.approx(100, abs=5)


def test_by_hand_a_task_is_enqueued_beside_the_slots():
    schedule = make(ago=-100)
    for _ in range(2):
        enqueue_by_hand(schedule, "ada")
    assert decisions(schedule) == [("by_hand", 0)] * 2
    assert Slot.objects.first().slot is None
    assert Task.objects.ready().count() == 2
    schedule.refresh_from_db()
    assert seconds_to_next() == pytest.approx(100, abs=5)


def test_a_single_time_fires_once():
    at = now() + timedelta(hours=1)
    schedule = make(at=at)
    Schedule.objects.update(
        next_at=DatabaseNow(-1), expression=(now() - timedelta(seconds=1)).isoformat()
    )
    fire_due()
    schedule.refresh_from_db()
    assert schedule.next_at is None
    assert Task.objects.count() == 1


def test_without_use_tz_slots_are_stored_in_the_default_zone(settings):
    settings.USE_TZ, settings.TIME_ZONE = False, "Europe/Berlin"
    moment = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert as_stored(moment) == datetime(2026, 7, 1, 14)
    assert in_utc(as_stored(moment)) == moment
