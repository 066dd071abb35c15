"""Test how schedules are declared by the code and changed by operators."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bgtask.db import DatabaseNow
from bgtask.exceptions import InvalidOption
from bgtask.models import Schedule, Slot, Task
from bgtask.models.schedule import Decision
from bgtask.schedules import declaring, edit, retention
from bgtask.schedules.definition import Definition, check_definition, in_utc
from bgtask.schedules.fire import fire_due
from tests.bgtask.schedules import functions
from tests.bgtask.schedules.conftest import make, now

pytestmark = pytest.mark.django_db

OTHER = check_definition(functions.report.name, "[[], {}]", cron="0 5 * * *")


def get(key="tests.declared"):
    return Schedule.objects.get(key=key)


class TestDeclaring:
    def test_the_schedules_of_the_code_are_stored(self, declared):
        declaring.declare()
        assert set(Schedule.objects.values_list("key", flat=True)) == set(declared)
        row = get()
        assert (row.source, row.expression, row.time_zone) == (
            "code",
            "0 9 * * mon-fri",
            "Europe/Berlin",
        )
        assert row.task_params == '[[], {"kind": "morning"}]'
        assert row.next_at > row.declared_at
        assert get("tests.nightly").expression == "0 0 * * *"

    def test_declaring_again_changes_nothing(self, declared):
        declaring.declare()
        before = list(Schedule.objects.order_by("pk").values())
        declaring.declare()
        for old, new in zip(before, Schedule.objects.order_by("pk").values(), strict=True):
            assert {**old, "declared_at": None} == {**new, "declared_at": None}

    def test_a_definition_that_has_changed_is_stored_after_its_due_slots(self, declared):
        declaring.declare()
        Schedule.objects.filter(key="tests.often").update(next_at=DatabaseNow(-1))
        old = get("tests.often")
        self.redefine(declared, "tests.often", OTHER)
        declaring.declare()
        row = get("tests.often")
        assert (row.expression, row.revision) == ("0 5 * * *", old.revision + 1)
        assert Slot.objects.get().slot == old.next_at
        assert row.next_at > now()

    def redefine(self, declared, key, definition):
        one = declared[key]
        declared[key] = type(one)(key, definition, one.origin, one.place, one.has_own_key)

    def test_one_that_the_admin_has_overridden_keeps_its_definition(self, declared):
        declaring.declare()
        edit.change(get(), OTHER, by="ada")
        self.redefine(
            declared, "tests.declared", check_definition("tests.declared", "[[], {}]", every=60)
        )
        declaring.declare()
        row = get()
        assert (row.expression, row.overridden_by) == ("0 5 * * *", "ada")
        assert Definition.from_json(row.declared).expression == "60"
        assert edit.restore(row)
        row = get()
        assert (row.expression, row.overridden_at, row.overridden_by) == ("60", None, "")

    def test_one_that_is_gone_from_the_code_is_retired_after_a_day(self, declared):
        declaring.declare()
        Schedule.objects.filter(key="tests.often").update(declared_at=DatabaseNow(-86_401))
        Schedule.objects.filter(key="tests.nightly").update(declared_at=DatabaseNow(-86_000))
        make("tests.admins")
        assert declaring.retire() == 1
        assert get("tests.often").retired_at is not None
        declaring.declare()
        row = get("tests.often")
        assert row.retired_at is None
        assert row.next_at > now()

    def test_refreshing_says_that_they_are_still_declared(self, declared):
        declaring.declare()
        Schedule.objects.update(declared_at=DatabaseNow(-86_401))
        declaring.refresh()
        assert declaring.retire() == 0

    def test_a_key_of_the_admin_is_left_alone_and_told(self, declared, caplog):
        make("tests.often")
        declaring.declare()
        assert get("tests.often").source == "admin"
        assert "tests.often of the code" in caplog.text
        assert Schedule.objects.count() == len(declared)

    def test_a_declaration_that_is_wrong_keeps_no_other(self, declared, caplog):
        self.redefine(
            declared, "tests.often", Definition(**{**vars(OTHER), "time_zone": "Nowhere/Town"})
        )
        declaring.declare()
        assert "tests.often of the code" in caplog.text
        assert set(Schedule.objects.values_list("key", flat=True)) == set(declared) - {
            "tests.often"
        }


class TestOperators:
    def test_a_new_schedule(self):
        row = edit.create("mine", OTHER)
        assert (row.source, row.revision) == ("admin", 0)
        assert in_utc(row.next_at) > now()

    @pytest.mark.parametrize("key", ["", " x", "x" * 256, "x\x00", None])
    def test_a_key_that_can_not_be_one_is_refused(self, key):
        with pytest.raises(InvalidOption, match="key="):
            edit.create(key, OTHER)

    def test_a_key_that_is_taken_is_refused(self):
        edit.create("mine", OTHER)
        with pytest.raises(InvalidOption, match="'mine' already"):
            edit.create("mine", OTHER)

    def test_a_schedule_without_a_slot_is_refused(self):
        past = check_definition(functions.report.name, "[[], {}]", at=now() - timedelta(days=1))
        with pytest.raises(InvalidOption, match="no slot from now on"):
            edit.create("mine", past)

    def test_a_change_decides_the_due_slots_by_the_old_definition(self):
        schedule = make(ago=5)
        assert edit.change(schedule, OTHER)
        assert Slot.objects.get().slot == schedule.next_at
        row = Schedule.objects.get()
        assert (row.kind, row.revision, row.overridden_at) == ("cron", 1, None)
        assert row.last_task == Task.objects.get().pk

    def test_a_change_of_a_schedule_that_is_gone(self):
        schedule = make()
        edit.delete(schedule)
        assert not edit.change(schedule, OTHER)
        assert not edit.delete(schedule)

    def test_slots_of_a_pause_are_no_misfires(self):
        schedule = make(ago=5)
        assert edit.pause(schedule, by="ada", reason="too many mails")
        assert not edit.pause(schedule)
        assert fire_due() == 0
        row = Schedule.objects.get()
        assert (row.paused_by, row.reason) == ("ada", "too many mails")
        assert edit.resume(row)
        assert not edit.resume(row)
        assert fire_due() == 0
        row.refresh_from_db()
        assert in_utc(row.next_at) > now()
        assert (row.paused_at, row.paused_by, row.reason) == (None, "", "")

    def test_a_paused_schedule_can_be_changed(self):
        schedule = make(ago=5)
        edit.pause(schedule)
        edit.change(schedule, OTHER)
        assert not Slot.objects.exists()
        assert Schedule.objects.get().paused_at is not None

    def test_a_schedule_of_the_code_can_not_be_deleted(self, declared):
        declaring.declare()
        assert not edit.delete(get())

    def test_deleting_takes_the_history_along(self):
        schedule = make(ago=5)
        fire_due()
        assert edit.delete(schedule)
        assert not Slot.objects.exists()
        assert Task.objects.count() == 1


class TestOnce:
    @pytest.mark.parametrize("task", [functions.report, functions.report.name])
    def test_a_task_is_enqueued_once_at_a_time(self, task):
        at = now() + timedelta(hours=1)
        schedule = Schedule.objects.create_once(task, at=at, args=["yearly"], queue="other")
        assert (schedule.key, in_utc(schedule.next_at)) == (
            f"{functions.report.name} {at:%Y-%m-%d %H:%M:%S}", at,
        )  # fmt: skip
        assert schedule.task_params == '[["yearly"], {}]'
        with pytest.raises(InvalidOption, match="already"):
            Schedule.objects.create_once(task, at=at)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"args": [1, 2, 3]}, "too many positional"),
            ({"args": [object()]}, "JSON"),
            ({"what": 1}, "what"),
            ({"key": " x"}, "key="),
        ],
    )
    def test_bad_input_is_refused(self, options, message):
        with pytest.raises((InvalidOption, TypeError), match=message):
            Schedule.objects.create_once(functions.report, at=now() + timedelta(hours=1), **options)

    def test_a_time_that_is_past_is_refused(self):
        with pytest.raises(InvalidOption, match="no slot from now on"):
            Schedule.objects.create_once(functions.report, at=now() - timedelta(hours=1))


class TestClock:
    def test_a_clock_that_was_set_back_does_not_stop_a_schedule(self):
        schedule = make(ago=5, every=60)
        ahead = now() + timedelta(hours=2)
        Schedule.objects.update(last_slot=ahead, next_at=ahead + timedelta(minutes=1))
        assert declaring.recompute_next_slots() == 1
        schedule.refresh_from_db()
        assert in_utc(schedule.next_at) <= now() + timedelta(minutes=1)
        assert declaring.recompute_next_slots() == 0

    def test_a_schedule_whose_next_slot_is_far_is_no_sign_of_it(self):
        make(ago=-7200)
        assert declaring.recompute_next_slots() == 0


class TestPruning:
    def test_old_decisions_are_deleted_but_not_the_last_of_a_schedule(self):
        schedule, other = make(), make("tests.other")
        for one, number in ((schedule, 10), (other, 3)):
            for _ in range(number):
                Slot.objects.create(
                    schedule=one, decision=Decision.BY_HAND, decided_at=DatabaseNow(-1000)
                )
        assert retention.prune_slots(2000, 0, keep=5) == (0, 0)
        assert retention.prune_slots(500, 0, keep=5) == (5, 0)
        assert schedule.slots.count() == 5
        assert other.slots.count() == 3

    def test_a_page_goes_on_where_the_last_one_ended(self):
        schedule = make()
        for _ in range(10):
            Slot.objects.create(
                schedule=schedule, decision=Decision.BY_HAND, decided_at=DatabaseNow(-1000)
            )
        deleted, after = retention.prune_slots(500, 0, keep=2, limit=4)
        assert (deleted, after > 0) == (4, True)
        deleted, after = retention.prune_slots(500, after, keep=2, limit=20)
        assert (deleted, after) == (4, 0)
