"""
Test that an operation changes the tasks of its preview, and logs it.

The module is long because every action goes through the same preview, steps and log.
"""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.contrib.admin.models import DELETION, LogEntry
from django.db import connection, models
from django.utils import timezone

from bgtask.db import DatabaseNow
from bgtask.lifecycle.claim import claim_queue
from bgtask.models import Task, Worker
from bgtask.status import HeldFor, Status
from bgtask_admin.actions import preview as preview_module
from bgtask_admin.actions import run
from bgtask_admin.actions.preview import GROUPS, Preview
from bgtask_admin.actions.registry import ACTIONS, OFFERED, Verb
from bgtask_admin.actions.run import result_in_words
from bgtask_admin.models import Operation, OperationState
from bgtask_admin.permissions import ALL_DETAILS
from bgtask_admin.tasks.selection import InvalidSelection, Selection
from tests.factories import TaskFactory, WorkerFactory
from tests.models import project_models

pytestmark = pytest.mark.django_db


def preview(verb: str = Verb.REQUEUE, **query: str) -> Preview:
    return Preview.take(ACTIONS[verb], Selection.parse_narrow(query))


def run_all(one: Preview, user, **options) -> Operation:
    operation = run.start(one, options, user=user)
    while operation.is_running:
        run.step(operation)
    return operation


def words_of(operation: Operation) -> str:
    return result_in_words(operation, ALL_DETAILS)


def test_requeue_changes_only_matching_tasks(admin_user):
    TaskFactory.create_batch(3, status=Status.FAILED, queue="mail")
    other = TaskFactory(status=Status.FAILED, queue="reports")
    TaskFactory(status=Status.SUCCESSFUL, queue="mail")

    operation = run_all(preview(queue="mail"), admin_user)

    assert Task.objects.ready().count() == 3
    other.refresh_from_db()
    assert other.status == Status.FAILED
    assert Task.objects.succeeded().count() == 1
    assert words_of(operation) == "3 tasks requeued."


def test_result_counts_tasks_claimed_meanwhile(admin_user):
    tasks = TaskFactory.create_batch(4, status=Status.FAILED, queue="mail")
    seen = preview(status="FAILED", queue="mail")
    tasks[0].requeue()
    claim_queue(WorkerFactory(), "mail", 1)

    operation = run_all(seen, admin_user)

    assert words_of(operation) == "3 tasks requeued. 1 task skipped: already running."
    assert Task.objects.running().count() == 1


def test_result_counts_tasks_changed_meanwhile_in_a_search_by_error_text(admin_user):
    tasks = TaskFactory.create_batch(
        4, status=Status.FAILED, queue="mail", last_error="connection refused"
    )
    seen = preview(status="FAILED", error="refused", since="1h")
    tasks[0].requeue()
    tasks[1].delete()
    claim_queue(WorkerFactory(), "mail", 1)
    TaskFactory(status=Status.RUNNING, queue="mail")  # Enqueued since: none of those.

    operation = run_all(seen, admin_user)

    assert operation.state == OperationState.DONE
    assert (operation.changed, operation.skipped_data) == (2, {"RUNNING": 1, "gone": 1})


def test_result_explains_why_a_chosen_task_was_skipped(admin_user):
    failed = TaskFactory(status=Status.FAILED)
    running = TaskFactory(status=Status.RUNNING)

    operation = run_all(preview(ids=f"{failed.pk},{running.pk}"), admin_user)

    assert words_of(operation) == "1 task requeued. 1 task skipped: already running."
    assert (operation.matched, operation.changed, operation.skipped) == (2, 1, 1)


def test_tasks_enqueued_after_the_preview_are_left_alone(admin_user):
    TaskFactory(status=Status.READY)
    seen = preview(Verb.CANCEL, queue="default")
    later = TaskFactory(status=Status.READY)

    run_all(seen, admin_user)

    later.refresh_from_db()
    assert later.status == Status.READY
    assert Task.objects.cancelled().count() == 1


def test_tasks_that_failed_again_after_the_preview_are_left_alone(admin_user):
    task = TaskFactory(status=Status.FAILED)
    seen = preview(status="FAILED")
    Task.objects.filter(pk=task.pk).update(finished_at=timezone.now() + timedelta(minutes=1))

    operation = run_all(seen, admin_user)

    assert operation.changed == 0
    assert Task.objects.failed().count() == 1


def test_preview_counts_by_task_queue_and_status():
    TaskFactory.create_batch(3, status=Status.FAILED, queue="mail", enqueued_at=DatabaseNow(-50))
    newest = TaskFactory(status=Status.FAILED, queue="mail", enqueued_at=DatabaseNow(-10))
    TaskFactory(status=Status.CANCELLED, queue="mail")
    TaskFactory(status=Status.FAILED, queue="reports")

    seen = preview(queue="mail").breakdown()

    assert [(group.count, group.queue, group.status) for group in seen.groups] == [
        (4, "mail", "FAILED"),
        (1, "mail", "CANCELLED"),
    ]
    newest.refresh_from_db()
    assert seen.groups[0].oldest < seen.groups[0].newest == newest.enqueued_at
    assert seen.looked_at == 5
    assert len(seen.samples) == 3


def test_preview_counts_only_the_newest_of_too_many_tasks():
    for age in range(5):
        TaskFactory(status=Status.FAILED, queue=f"q{age}", finished_at=DatabaseNow(-age * 10 - 10))

    seen = preview(status="FAILED").breakdown(2)

    assert {group.queue for group in seen.groups} == {"q0", "q1"}
    assert seen.looked_at == 2


@pytest.mark.parametrize("status", ["FAILED", None], ids=["by-time", "by-id"])
def test_preview_counts_each_task_once_over_several_slices(monkeypatch, status):
    monkeypatch.setattr(preview_module, "SLICE_ROWS", 2)
    at = DatabaseNow(-10)
    tasks = [
        TaskFactory(status=Status.FAILED, queue="mail", finished_at=at, task_name=f"kind {n}")
        for n in range(5)
    ]

    seen = preview(queue="mail", **({"status": status} if status else {})).breakdown()

    assert {group.task_name: group.count for group in seen.groups} == {
        task.task_name: 1 for task in tasks
    }
    assert seen.looked_at == 5
    assert seen.samples == tuple(task.pk for task in reversed(tasks[-3:]))


def test_preview_names_the_number_of_hidden_kinds():
    for number in range(GROUPS + 3):
        TaskFactory(status=Status.FAILED, task_name=f"kind {number}")

    seen = preview(status="FAILED").breakdown()

    assert (len(seen.groups), seen.others) == (GROUPS, 3)


def test_operation_continues_after_a_crash(admin_user, monkeypatch):
    monkeypatch.setattr(run, "CHUNK", 2)
    TaskFactory.create_batch(5, status=Status.FAILED)
    operation = run.start(preview(status="FAILED"), {}, user=admin_user)
    run.step(operation, seconds=0)
    assert operation.changed == 2

    found = Operation.objects.get()
    while found.is_running:
        run.step(found)

    assert (found.changed, found.skipped, found.state) == (5, 0, OperationState.DONE)


def test_concurrent_steps_of_one_operation_count_once(admin_user, monkeypatch):
    monkeypatch.setattr(run, "CHUNK", 2)
    TaskFactory.create_batch(6, status=Status.FAILED)
    mine = run.start(preview(status="FAILED"), {}, user=admin_user)
    yours = Operation.objects.get()

    run.step(mine, seconds=0)
    run.step(yours, seconds=0)
    run.step(yours)

    assert (yours.changed, yours.skipped) == (6, 0)


def test_form_sent_twice_starts_one_operation(admin_user):
    TaskFactory(status=Status.FAILED)
    seen = preview(status="FAILED")

    first, second = (run.start(seen, {}, user=admin_user) for _ in range(2))

    assert first == second


@pytest.mark.django_db(transaction=True)
def test_two_operators_at_once_change_each_task_once(admin_user):
    TaskFactory.create_batch(300, status=Status.FAILED)
    seen = [preview(status="FAILED") for _ in range(2)]
    barrier = threading.Barrier(2)
    done: list[Operation] = []

    def press(one: Preview) -> None:
        try:
            operation = run.start(one, {}, user=admin_user)
            barrier.wait()
            done.append(run.step(operation, seconds=60))
        finally:
            connection.close()

    threads = [threading.Thread(target=press, args=(one,)) for one in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(operation.changed for operation in done) == 300
    assert sum(operation.skipped for operation in done) == 300
    assert set(Task.objects.values_list("status", "token")) == {(Status.READY, 2)}


@pytest.mark.parametrize(
    "query",
    [{}, {"queue": " "}, {"status": "faild"}, {"stauts": "FAILED"}, {"since": "yesterday"}],
    ids=["empty", "blank", "wrong value", "wrong key", "wrong time"],
)
def test_action_refuses_a_filter_that_matches_all_tasks(query):
    with pytest.raises(InvalidSelection):
        preview(**query)


def test_status_that_does_not_allow_the_action_matches_nothing(admin_user):
    TaskFactory(status=Status.RUNNING)

    assert preview(Verb.DELETE, status="RUNNING").matched == 0


OPTIONS = {Verb.PRIORITY: {"priority": 7}, Verb.QUEUE: {"queue": "slow"}}
# What the tasks were, and what of them is different then.
CASES = {
    Verb.REQUEUE: ({"status": Status.FAILED}, {"status": Status.READY}),
    Verb.RUN_NOW: ({"status": Status.SCHEDULED}, {"status": Status.READY}),
    Verb.CANCEL: ({}, {"status": Status.CANCELLED}),
    Verb.HOLD: ({}, {"status": Status.HELD}),
    Verb.RELEASE: ({"status": Status.HELD}, {"status": Status.READY}),
    Verb.RESET: ({"attempts": 3, "crashes": 1}, {"attempts": 0, "crashes": 0}),
    Verb.PRIORITY: ({}, {"priority": 7}),
    Verb.QUEUE: ({}, {"queue": "slow"}),
}


@pytest.mark.parametrize("verb", CASES)
def test_every_action_changes_its_tasks(verb, admin_user):
    before, difference = CASES[verb]
    columns = ("status", "attempts", "crashes", "priority", "queue")
    task = TaskFactory(**before)
    then = {column: getattr(task, column) for column in columns} | difference

    operation = run_all(preview(verb, id=str(task.pk)), admin_user, **OPTIONS.get(verb, {}))

    assert (operation.matched, operation.changed, operation.skipped) == (1, 1, 0)
    assert Task.objects.values(*columns).get() == then


def test_delete_removes_tasks(admin_user):
    task, other = TaskFactory.create_batch(2, status=Status.FAILED)

    operation = run_all(preview(Verb.DELETE, id=str(task.pk)), admin_user)

    assert (operation.matched, operation.changed, operation.skipped) == (1, 1, 0)
    assert Task.objects.get() == other


@pytest.mark.django_db(transaction=True)
def test_delete_names_the_table_that_keeps_a_task(admin_user):
    """Kind of fault: a refusal for one task undoes the deletion of all."""
    field = models.ForeignKey("bgtask.Task", models.PROTECT, related_name="+")
    with project_models(("Job", {"task": field})) as (job,):
        tasks = TaskFactory.create_batch(3, status=Status.FAILED)
        job.objects.create(task=tasks[1])

        operation = run_all(preview(Verb.DELETE, status="FAILED"), admin_user)

        assert (operation.matched, operation.changed, operation.skipped) == (3, 2, 1)
        assert (
            words_of(operation) == "2 tasks deleted. 1 task skipped: rows of shop_job refer to it."
        )
        assert Task.objects.get() == tasks[1]
        entries = LogEntry.objects.values_list("object_id", flat=True)
        assert set(entries) == {str(tasks[0].pk), str(tasks[2].pk)}


@pytest.mark.django_db(transaction=True)
def test_delete_names_the_error_that_keeps_a_task(admin_user):
    """Kind of fault: code of the project that raises ends an operation."""

    def value():
        raise ValueError("nobody is on duty")

    field = models.ForeignKey("bgtask.Task", models.SET(value), null=True, related_name="+")
    with project_models(("Job", {"task": field})) as (job,):
        tasks = TaskFactory.create_batch(3, status=Status.FAILED)
        job.objects.create(task=tasks[1])

        operation = run_all(preview(Verb.DELETE, status="FAILED"), admin_user)

        words = "2 tasks deleted. 1 task skipped: ValueError: nobody is on duty."
        assert words_of(operation) == words
        assert Task.objects.get() == tasks[1]


@pytest.mark.django_db(transaction=True)
def test_task_page_names_the_table_that_keeps_a_task(admin_client):
    field = models.ForeignKey("bgtask.Task", models.PROTECT, related_name="+")
    with project_models(("Job", {"task": field})) as (job,):
        task = TaskFactory(status=Status.FAILED)
        job.objects.create(task=task)

        url = f"/admin/bgtask/task/{task.pk}/"
        response = admin_client.post(f"{url}do/delete/", follow=True)

        assert "0 tasks deleted. 1 task skipped: rows of shop_job refer to it." in response.text


def test_every_action_is_tested():
    assert {*CASES, Verb.DELETE} == {*OFFERED}


@pytest.mark.parametrize("verb", OFFERED)
def test_only_cancel_changes_a_running_task(verb, admin_user):
    task = TaskFactory(status=Status.RUNNING)

    operation = run_all(preview(verb, id=str(task.pk)), admin_user, **OPTIONS.get(verb, {}))

    task.refresh_from_db()
    assert (task.status, task.queue, task.priority) == (Status.RUNNING, "default", 0)
    assert task.cancel_requested == (verb == Verb.CANCEL)
    assert operation.skipped == (0 if verb == Verb.CANCEL else 1)


def test_action_gets_its_options(admin_user):
    task = TaskFactory(status=Status.FAILED, attempts=5)

    run_all(preview(id=str(task.pk)), admin_user, reset_attempts=True, spread=10)

    task.refresh_from_db()
    assert (task.attempts, task.status) == (0, Status.SCHEDULED)
    assert task.run_at > Task.objects.get().enqueued_at


def test_forced_cancel_cancels_a_running_task(admin_user):
    task = TaskFactory(status=Status.RUNNING)

    run_all(preview(Verb.CANCEL, id=str(task.pk)), admin_user, force=True)

    task.refresh_from_db()
    assert task.status == Status.CANCELLED


def test_unhold_leaves_tasks_of_a_type_on_hold(admin_user):
    task = TaskFactory(status=Status.HELD, held_for=HeldFor.TYPE)

    operation = run_all(preview(Verb.RELEASE, id=str(task.pk)), admin_user)

    assert (operation.changed, operation.skipped) == (0, 1)


def test_a_few_tasks_have_an_entry_each_in_the_history(admin_user):
    tasks = TaskFactory.create_batch(2, status=Status.FAILED)

    run_all(preview(status="FAILED"), admin_user)

    assert set(LogEntry.objects.values_list("object_id", flat=True)) == {
        str(task.pk) for task in tasks
    }


def test_only_changed_tasks_get_an_entry_in_the_history(admin_user):
    again, *others = TaskFactory.create_batch(3, status=Status.FAILED)
    seen = preview(ids=",".join(str(task.pk) for task in (again, *others)))
    Task.objects.filter(pk=again.pk).update(finished_at=timezone.now() + timedelta(minutes=1))

    operation = run_all(seen, admin_user)

    assert (operation.changed, operation.skipped) == (2, 1)
    assert set(LogEntry.objects.values_list("object_id", flat=True)) == {
        str(task.pk) for task in others
    }


def test_history_keeps_the_name_of_a_deleted_task(admin_user):
    task = TaskFactory(status=Status.FAILED, task_name="shop.send")

    run_all(preview(Verb.DELETE, id=str(task.pk)), admin_user)

    entry = LogEntry.objects.get()
    assert (entry.action_flag, entry.object_repr) == (DELETION, str(task))


def test_many_tasks_have_one_entry_in_the_history(admin_user):
    TaskFactory.create_batch(101, status=Status.FAILED)

    operation = run_all(preview(status="FAILED"), admin_user)

    assert LogEntry.objects.get().object_id == str(operation.pk)


def test_history_shows_no_value_of_an_argument(admin_user):
    TaskFactory.create_batch(101, status=Status.FAILED, task_params='[[], {"user_id": 4711}]')

    run_all(preview(status="FAILED", argument="user_id:4711"), admin_user)

    said = LogEntry.objects.get().object_repr
    assert said == "Requeue: Failed · argument user_id = ********"


def test_stopped_operation_leaves_the_remaining_tasks(admin_user, monkeypatch):
    monkeypatch.setattr(run, "CHUNK", 1)
    TaskFactory.create_batch(3, status=Status.FAILED)
    operation = run.start(preview(status="FAILED"), {}, user=admin_user)
    run.step(operation, seconds=0)

    run.stop(operation)
    run.step(operation)

    assert (Task.objects.failed().count(), operation.state) == (2, OperationState.STOPPED)


def test_confirmation_is_valid_only_for_the_user_of_the_preview(admin_user, operator):
    TaskFactory(status=Status.FAILED)
    signed = preview(status="FAILED").signed(admin_user)

    assert Preview.load(signed, admin_user).matched == 1
    with pytest.raises(InvalidSelection, match="somebody else"):
        Preview.load(signed, operator())
    with pytest.raises(InvalidSelection, match="not valid"):
        Preview.load(signed[:-1], admin_user)


def test_actions_need_no_worker(admin_user):
    TaskFactory(status=Status.FAILED)

    run_all(preview(status="FAILED"), admin_user)

    assert not Worker.objects.exists()


@pytest.mark.parametrize("look_ahead", [3, 10])
def test_the_step_that_changes_the_last_task_ends_the_operation(
    admin_user, monkeypatch, look_ahead
):
    """Kind of fault: all tasks are changed, and page and log say “running” until somebody looks."""
    monkeypatch.setattr(run, "CHUNK", 3)
    monkeypatch.setattr(run, "LOOK_AHEAD", look_ahead)
    TaskFactory.create_batch(6, status=Status.FAILED)
    operation = run.start(preview(status="FAILED"), {}, user=admin_user)

    run.step(operation, seconds=0)
    assert (operation.handled, operation.state) == (3, OperationState.RUNNING)
    run.step(operation, seconds=0)

    operation.refresh_from_db()
    assert (operation.handled, operation.state) == (6, OperationState.DONE)
    assert operation.finished_at is not None


@pytest.mark.parametrize("change", [{"queue": "other"}, {"error_fingerprint": "other"}])
def test_leaves_alone_what_left_the_filter_after_its_id_was_read(admin_user, change):
    """Between the read of the ids and the change: a task that no longer matches."""
    left, stayed = TaskFactory.create_batch(
        2, status=Status.FAILED, queue="mail", error_fingerprint="abc"
    )
    operation = run.start(preview(queue="mail", fingerprint="abc"), {}, user=admin_user)
    Task.objects.filter(pk=left.pk).update(**change)

    assert run._advance(operation, [left.pk, stayed.pk])

    assert Task.objects.failed().get() == left
    assert Task.objects.ready().get() == stayed
    assert (operation.changed, operation.last_id) == (1, stayed.pk)
