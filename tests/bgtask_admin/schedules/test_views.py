"""
Test the pages of schedules as operators with different permissions use them.

The module is long because each page is tested with each permission and with bad input.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
from django.urls import reverse

from bgtask.db import DatabaseNow
from bgtask.models import Schedule, Slot, Task
from bgtask.models.schedule import Decision
from bgtask.schedules import declaring, edit
from bgtask.schedules.definition import in_utc
from bgtask.schedules.fire import fire_due
from bgtask.status import Status
from bgtask_admin.models import Operation
from tests.bgtask.schedules import functions
from tests.bgtask.schedules.conftest import declared as declared  # A fixture.
from tests.bgtask.schedules.conftest import make, now

pytestmark = pytest.mark.django_db

ALL = ("view_schedule", "change_schedule", "pause_schedule", "run_schedule", "view_task")


def url(name, *args):
    return reverse(f"admin:{name}", args=args)


LIST, ADD = "bgtask_schedule_changelist", "bgtask_admin_schedule_add"
PREVIEW = "bgtask_admin_schedule_preview"
FORM = {
    "key": "reports.weekly",
    "task_name": functions.report.name,
    "args": '["weekly"]',
    "kwargs": "{}",
    "kind": "cron",
    "cron": "30 2 * * *",
    "time_zone": "Europe/Berlin",
    "misfire": "one",
    "overlap": "skip",
}


def page(client, name, *args, **query):
    response = client.get(url(name, *args), query)
    assert response.status_code == 200
    return response.content.decode()


class TestPermissions:
    @pytest.mark.parametrize("name", [LIST, "bgtask_schedule_change"])
    def test_viewing_needs_its_permission(self, log_in, name):
        args = [] if name == LIST else [make().pk]
        assert log_in("view_task").get(url(name, *args)).status_code == 403
        assert log_in("view_schedule").get(url(name, *args)).status_code == 200

    @pytest.mark.parametrize(
        ("name", "permission"),
        [
            ("bgtask_admin_schedule_edit", "change_schedule"),
            ("bgtask_admin_schedule_pause", "pause_schedule"),
        ],
    )
    def test_each_form_needs_its_permission(self, log_in, name, permission):
        schedule = make()
        others = [one for one in ALL if one != permission]
        assert log_in(*others).get(url(name, schedule.pk)).status_code == 403
        assert log_in("view_schedule", permission).get(url(name, schedule.pk)).status_code == 200

    @pytest.mark.parametrize(
        ("verb", "permission"),
        [
            ("resume", "pause_schedule"),
            ("run", "run_schedule"),
            ("restore", "change_schedule"),
            ("delete", "change_schedule"),
        ],
    )
    def test_each_button_needs_its_permission(self, log_in, verb, permission):
        schedule = make()
        target = url(f"bgtask_admin_schedule_{verb}", schedule.pk)
        others = [one for one in ALL if one != permission]
        assert log_in(*others).post(target).status_code == 403
        assert log_in(*ALL).get(target).status_code == 405
        assert not Operation.objects.exists()
        assert Schedule.objects.count() == 1

    @pytest.mark.parametrize("name", [ADD, PREVIEW])
    def test_adding_and_previews_need_the_permission_to_change(self, log_in, name):
        others = [one for one in ALL if one != "change_schedule"]
        assert log_in(*others).get(url(name)).status_code == 403

    def test_a_page_offers_only_what_the_user_may_do(self, log_in):
        schedule = make()
        shown = page(log_in("view_schedule"), "bgtask_schedule_change", schedule.pk)
        for word in ("Run now", "Pause…", "Change…", "Delete…"):
            assert word not in shown
        shown = page(log_in(*ALL), "bgtask_schedule_change", schedule.pk)
        for word in ("Run now", "Pause…", "Change…", "Delete…"):
            assert word in shown

    def test_arguments_are_shown_to_those_who_may_see_them(self, log_in):
        schedule = make(params='[["confidential"], {}]')
        assert "confidential" not in page(log_in(*ALL), "bgtask_schedule_change", schedule.pk)
        shown = page(log_in(*ALL, "view_task_arguments"), "bgtask_schedule_change", schedule.pk)
        assert "confidential" in shown
        assert "confidential" not in page(log_in(*ALL), "bgtask_admin_schedule_edit", schedule.pk)


class TestList:
    def test_schedules_are_told_in_words_with_their_next_and_last_slot(self, log_in):
        schedule = make(ago=5)
        fire_due()
        Task.objects.update(status=Status.FAILED, finished_at=DatabaseNow())
        make("tests.cron", cron="0 9 * * mon-fri", time_zone="Europe/Berlin")
        shown = page(log_in(*ALL), LIST)
        assert "Every 1 h" in shown
        assert "At 09:00" in shown
        assert "in 59 m" in shown
        assert "bg-status-failed" in shown
        assert url("bgtask_task_change", Task.objects.get().pk) in shown
        assert schedule.key in shown

    def test_a_late_schedule_is_red_and_counted(self, log_in):
        make(ago=400)
        make("tests.in_time")
        shown = page(log_in(*ALL), LIST)
        assert "late by 6 m" in shown
        assert "1 schedule is late" in shown
        shown = page(log_in(*ALL), LIST, late=1)
        assert "tests.in_time" not in shown

    def test_a_search_finds_keys_and_tasks(self, log_in):
        make("tests.one")
        make("tests.two", name="shop.reindex")
        assert "tests.two" not in page(log_in(*ALL), LIST, q="one")
        assert "tests.two" in page(log_in(*ALL), LIST, q="reindex")
        assert "tests.two" in page(log_in(*ALL), LIST, q="two\x00")

    def test_the_list_shows_the_special_states(self, log_in, declared):
        declaring.declare()
        for key, column in (("tests.often", "retired_at"), ("tests.nightly", "paused_at")):
            Schedule.objects.filter(key=key).update(**{column: DatabaseNow()})
        edit.change(Schedule.objects.get(key="tests.declared"), edit.Definition.of(make()))
        shown = page(log_in(*ALL), LIST)
        for word in ("retired: no longer in the code", "paused", "overridden", "Resume"):
            assert word in shown

    @pytest.mark.parametrize(
        ("kind", "expression", "zone", "message"),
        [
            ("cron", "0 9 * * *", "Nowhere/Town", "Nowhere/Town"),
            ("cron", "99 * * * *", "", "Bad minute"),
            ("every", "soon", "", "is not a number of seconds"),
            ("every", "0", "", "must be at least 1 second"),
            ("every", "nan", "", "must be at least 1 second"),
            ("at", "noon", "", "is not a time in ISO 8601"),
            ("never", "", "", "is unknown"),
        ],
    )
    def test_a_row_that_was_edited_by_hand_is_shown(self, log_in, kind, expression, zone, message):
        schedule = make()
        Schedule.objects.update(time_zone=zone, kind=kind, expression=expression)
        client = log_in(*ALL)
        assert expression in page(client, LIST)
        assert message in page(client, "bgtask_schedule_change", schedule.pk)
        page(client, "bgtask_admin_upcoming")

    def test_no_schedules(self, log_in):
        assert "Declare one with @recurring" in page(log_in(*ALL), LIST)


class TestDetail:
    def test_the_history_tells_what_became_of_each_slot(self, log_in):
        schedule = make(ago=5)
        fire_due()
        Task.objects.update(
            status=Status.SUCCESSFUL,
            finished_at=DatabaseNow(),
            started_at=schedule.next_at + timedelta(seconds=12),
            duration_ms=3_456,
        )
        Slot.objects.create(
            schedule=schedule, slot=schedule.next_at + timedelta(hours=1), missed=3,
            decision=Decision.MISSED, decided_at=DatabaseNow(),
        )  # fmt: skip
        shown = page(log_in(*ALL), "bgtask_schedule_change", schedule.pk)
        assert "12 s" in shown
        assert "3.5 s" in shown
        assert "missed: 3" in shown
        assert "bg-mark-successful" in shown
        assert "bg-mark-missed" in shown

    def test_a_pruned_task_is_said_to_be_deleted(self, log_in):
        schedule = make(ago=5)
        fire_due()
        Task.objects.all().delete()
        assert "deleted" in page(log_in(*ALL), "bgtask_schedule_change", schedule.pk)

    def test_the_code_is_shown_beside_the_override(self, log_in, declared):
        declaring.declare()
        schedule = Schedule.objects.get(key="tests.declared")
        edit.change(schedule, edit.Definition.of(make(cron="0 5 * * *")))
        shown = page(log_in(*ALL), "bgtask_schedule_change", schedule.pk)
        assert "0 9 * * mon-fri" in shown
        assert "0 5 * * *" in shown
        assert "Back to the code’s" in shown
        assert "morning" not in shown

    def test_there_is_no_such_schedule(self, log_in):
        assert log_in(*ALL).get(url("bgtask_schedule_change", 4711)).status_code == 404


class TestForm:
    def test_a_schedule_is_added(self, log_in):
        response = log_in(*ALL).post(url(ADD), FORM)
        schedule = Schedule.objects.get()
        assert response["Location"] == url("bgtask_schedule_change", schedule.pk)
        assert (schedule.key, schedule.expression, schedule.source) == (
            "reports.weekly", "30 2 * * *", "admin",
        )  # fmt: skip
        assert schedule.task_params == '[["weekly"], {}]'
        operation = Operation.objects.get()
        assert (operation.verb, operation.filter_words) == ("create_schedule", "reports.weekly")

    def test_the_preview_stores_nothing(self, log_in):
        response = log_in(*ALL).post(url(ADD), {**FORM, "preview": "1"})
        shown = response.content.decode()
        assert shown.count("<time datetime=") == 5
        assert "At 02:30 every day (Europe/Berlin)" in shown
        assert "comes twice on" in shown
        assert "does not exist on" in shown
        assert not Schedule.objects.exists()

    def test_the_preview_is_a_fragment_for_scripts(self, log_in):
        client = log_in(*ALL)
        shown = page(client, PREVIEW, **FORM)
        assert shown.count("<time datetime=") == 5
        assert "<html" not in shown
        shown = page(client, PREVIEW, **{**FORM, "cron": "61 * * * *"})
        assert "Bad minute" in shown
        assert client.get(url(PREVIEW), {**FORM, "schedule": "what"}).status_code == 200

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"cron": "61 * * * *"}, "Bad minute"),
            ({"cron": ""}, "Fill in “Cron expression”"),
            ({"kind": "every", "every": "5 minutes"}, "is not a duration. Use 90, 5m"),
            ({"kind": "every", "every": "0"}, "must be at least 1 second"),
            ({"kind": "at", "at": "2020-01-01T00:00"}, "has no slot from now on"),
            ({"kind": "never"}, "Select a valid choice"),
            ({"time_zone": "Europe/Berln"}, "Did you mean Europe/Berlin"),
            ({"args": "[1"}, "“Positional arguments” is not valid JSON"),
            ({"args": "{}"}, "a list and an object in JSON"),
            ({"args": "[1, 2, 3, 4]"}, "too many positional arguments"),
            ({"key": " "}, "This field is required"),
            ({"start": "2030-01-02T00:00", "end": "2030-01-01T00:00"}, "is not after start="),
            ({"end": "2020-01-01T00:00"}, "has no slot from now on before its end"),
            ({"queue": "a b"}, "not a valid queue name"),
            ({"jitter": "-1"}, "greater than or equal to 0"),
        ],
    )
    def test_bad_input_is_told_in_plain_words(self, log_in, changes, message):
        response = log_in(*ALL).post(url(ADD), {**FORM, **changes})
        assert response.status_code == 400
        assert message in response.content.decode().replace("&#x27;", "'")
        assert not Schedule.objects.exists()

    def test_a_key_that_is_taken(self, log_in):
        make("reports.weekly")
        response = log_in(*ALL).post(url(ADD), FORM)
        assert "already" in response.content.decode()

    def test_an_unknown_task_takes_any_parameters(self, log_in):
        log_in(*ALL).post(url(ADD), {**FORM, "task_name": "elsewhere.task", "args": "[1,2,3,4]"})
        assert Schedule.objects.get().task_params == "[[1, 2, 3, 4], {}]"

    def test_overriding_keeps_what_the_form_does_not_show(self, log_in, declared):
        declaring.declare()
        schedule = Schedule.objects.get(key="tests.declared")
        client = log_in(*ALL)
        form = client.get(url("bgtask_admin_schedule_edit", schedule.pk)).context["form"]
        data = {name: form[name].value() for name in form.fields}
        data = {name: "" if value is None else value for name, value in data.items()}
        data |= {"cron": "0 7 * * *", "reason": "the mails come too late"}
        response = client.post(url("bgtask_admin_schedule_edit", schedule.pk), data)
        assert response.status_code == 302
        schedule.refresh_from_db()
        assert schedule.expression == "0 7 * * *"
        assert schedule.task_params == '[[], {"kind": "morning"}]'
        assert schedule.time_zone == "Europe/Berlin"
        operation = Operation.objects.get()
        assert operation.option_data == {"expression": "0 9 * * mon-fri → 0 7 * * *"}
        assert operation.reason == "the mails come too late"
        assert schedule.overridden_by == operation.by
        shown = page(client, "bgtask_admin_operation_change", operation.pk)
        assert "0 9 * * mon-fri → 0 7 * * *" in shown
        client.post(url("bgtask_admin_schedule_restore", schedule.pk))
        schedule.refresh_from_db()
        assert schedule.expression == "0 9 * * mon-fri"

    @pytest.mark.parametrize(
        "broken",
        [
            {"time_zone": "Nowhere/Town"},
            {"expression": "99 * * * *"},
            {"kind": "at", "expression": "noon"},
            {"kind": "never"},
            {"task_params": "{"},
            {"task_params": "5"},
        ],
    )
    def test_a_row_that_was_edited_by_hand_can_be_corrected(self, log_in, caplog, broken):
        schedule = make("reports.weekly", ago=5)
        Schedule.objects.update(**{"kind": "cron", "expression": "0 9 * * *"} | broken)
        client = log_in(*ALL, "view_task_arguments")
        target = url("bgtask_admin_schedule_edit", schedule.pk)
        assert client.get(target).status_code == 200
        assert client.post(target, FORM).status_code == 302
        schedule.refresh_from_db()
        assert (schedule.expression, schedule.time_zone) == ("30 2 * * *", "Europe/Berlin")
        assert schedule.last_slot is None
        assert in_utc(schedule.next_at) > now()
        assert not Slot.objects.exists()
        assert "reports.weekly that are due can't be decided" in caplog.text

    @pytest.mark.parametrize("kind", ["cron", "every", "at"])
    def test_saving_without_a_change_changes_nothing(self, log_in, kind):
        given = {"cron": "5 4 * * *"}
        if kind == "every":
            given = {"every": 90}
        elif kind == "at":
            given = {"at": now().replace(microsecond=0) + timedelta(days=3)}
        schedule = make(**given, end=now().replace(microsecond=0) + timedelta(days=30))
        client = log_in(*ALL, "view_task_arguments")
        form = client.get(url("bgtask_admin_schedule_edit", schedule.pk)).context["form"]
        data = {
            name: value
            for name in form.fields
            if (value := form[name].field.widget.format_value(form[name].value())) is not None
        }
        data = {
            name: value[0] if isinstance(value, list) else value for name, value in data.items()
        }
        before = edit.Definition.of(schedule)
        response = client.post(url("bgtask_admin_schedule_edit", schedule.pk), data)
        assert response.status_code == 302, response.context["form"].errors
        schedule.refresh_from_db()
        after = edit.Definition.of(schedule)
        if kind == "every":  # The form shows a start to the second.
            before = after if abs_start(before, after) < 1 else before
        assert after == before


def abs_start(one, other):
    first, second = (datetime.fromisoformat(d.start_at) for d in (one, other))
    return abs((first - second).total_seconds())


class TestActs:
    def test_pause_and_resume(self, log_in):
        schedule = make()
        client = log_in(*ALL)
        target = url("bgtask_admin_schedule_pause", schedule.pk)
        assert "Its slots are left out" in client.get(target).content.decode()
        client.post(target, {"reason": "too many"})
        schedule.refresh_from_db()
        assert schedule.reason == "too many"
        assert schedule.paused_by
        client.post(url("bgtask_admin_schedule_resume", schedule.pk))
        schedule.refresh_from_db()
        assert schedule.paused_at is None
        verbs = list(Operation.objects.order_by("pk").values_list("verb", flat=True))
        assert verbs == ["pause_schedule", "resume_schedule"]
        assert "Pause schedule" in page(client, "bgtask_schedule_change", schedule.pk)

    def test_a_change_that_another_user_has_made_is_not_made_again(self, log_in):
        schedule = make()
        edit.pause(schedule)
        client = log_in(*ALL)
        response = client.post(url("bgtask_admin_schedule_pause", schedule.pk), follow=True)
        assert "has changed meanwhile" in response.content.decode()
        assert not Operation.objects.exists()

    def test_run_now(self, log_in):
        schedule = make()
        log_in(*ALL).post(url("bgtask_admin_schedule_run", schedule.pk))
        assert Task.objects.get().task_name == schedule.task_name
        assert Slot.objects.get().decision == Decision.BY_HAND
        assert Operation.objects.get().verb == "run_schedule"

    def test_run_now_of_a_unique_function_that_is_there(self, log_in):
        schedule = make(name=functions.once_at_a_time.name)
        there = functions.once_at_a_time()
        client = log_in(*ALL)
        target = url("bgtask_admin_schedule_run", schedule.pk)
        shown = client.post(target, follow=True).content.decode()
        assert f"Task {there.pk} holds the unique key of this call" in shown
        assert Task.objects.count() == 1

    @pytest.mark.parametrize("act", ["run", "resume"])
    def test_a_broken_schedule_says_why_it_can_not(self, log_in, act):
        schedule = make()
        edit.pause(schedule)
        Schedule.objects.update(task_params="{", time_zone="Nowhere/Town")
        target = url(f"bgtask_admin_schedule_{act}", schedule.pk)
        shown = log_in(*ALL).post(target, follow=True).content.decode()
        assert ("Nowhere/Town" if act == "resume" else "is not valid JSON") in shown
        assert not Operation.objects.exists()

    def test_only_an_overridden_schedule_is_restored(self, log_in):
        schedule = make()
        target = url("bgtask_admin_schedule_restore", schedule.pk)
        assert "has changed meanwhile" in log_in(*ALL).post(target, follow=True).content.decode()

    def test_delete(self, log_in):
        schedule = make()
        response = log_in(*ALL).post(url("bgtask_admin_schedule_delete", schedule.pk))
        assert response["Location"] == url(LIST)
        assert not Schedule.objects.exists()

    def test_a_schedule_of_the_code_stays(self, log_in, declared):
        declaring.declare()
        schedule = Schedule.objects.get(key="tests.often")
        log_in(*ALL).post(url("bgtask_admin_schedule_delete", schedule.pk))
        assert Schedule.objects.filter(pk=schedule.pk).exists()
        assert "Delete…" not in page(log_in(*ALL), "bgtask_schedule_change", schedule.pk)


class TestUpcoming:
    def test_the_next_24_hours_of_schedules_and_tasks(self, log_in):
        make("tests.hourly", ago=-60)
        make("tests.often", every=10, ago=-1)
        make("tests.far", ago=-90_000)
        functions.report(schedule=3_600)
        functions.report(schedule=90_000)
        shown = page(log_in(*ALL), "bgtask_admin_upcoming")
        assert shown.count(">tests.<wbr>hourly<") >= 24
        assert "× 360" in shown
        # The hours at both ends are not whole, and have so many slots together.
        numbers = [int(one) for one in re.findall(r"often</a>\s*<span[^>]*>× ([0-9]+)", shown)]
        assert sum(numbers) == pytest.approx(24 * 360, abs=1)
        assert "far" not in shown
        assert shown.count("?status=SCHEDULED") == 1

    def test_it_shows_what_the_user_may_see(self, log_in):
        make("tests.hourly", ago=-60)
        assert "hourly" not in page(log_in("view_task"), "bgtask_admin_upcoming")
        assert "Scheduled tasks" not in page(log_in("view_schedule"), "bgtask_admin_upcoming")
        assert log_in().get(url("bgtask_admin_upcoming")).status_code == 403

    def test_nothing_to_come(self, log_in):
        assert "Nothing is due" in page(log_in(*ALL), "bgtask_admin_upcoming")


def test_the_index_lists_the_schedules(log_in):
    client = log_in("view_schedule")
    shown = client.get(reverse("admin:index")).content.decode()
    assert "Schedules" in shown
    target = url("bgtask_admin_schedulelist_changelist")
    assert client.get(target)["Location"] == url(LIST)
