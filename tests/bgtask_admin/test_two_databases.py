"""Changes and their log, where the tasks, the log and the users are not all in one database."""

from __future__ import annotations

import html
import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import DatabaseError, connection, connections
from django.db.models import QuerySet
from django.test import Client
from django.test.utils import CaptureQueriesContext

from bgtask.models import QueuePause, Task, TaskHold
from bgtask.status import Status, WorkerState
from bgtask_admin.actions import run
from bgtask_admin.actions.preview import Preview
from bgtask_admin.actions.registry import ACTIONS, OFFERED, Verb
from bgtask_admin.models import Operation, OperationState
from bgtask_admin.tasks.selection import Selection
from tests.bgtask_admin.refusing import refused
from tests.bgtask_admin.urls import CONFIRM, LANDING, OPERATIONS, TASKS
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

OPTIONS: dict[str, dict[str, object]] = {
    Verb.PRIORITY: {"priority": 7},
    Verb.QUEUE: {"queue": "slow"},
}
STATUSES = {
    Verb.REQUEUE: Status.FAILED,
    Verb.RUN_NOW: Status.SCHEDULED,
    Verb.RELEASE: Status.HELD,
    Verb.DELETE: Status.FAILED,
}
SPLITS = {
    "tasks and log": {"bgtask", "bgtask_admin"},
    "log": {"bgtask_admin"},
    "tasks": {"bgtask"},
}


class KeepInOther:
    """A router as in Django's documentation: it has no opinion on relations."""

    def __init__(self, apps):
        self.apps = apps

    def db_for_read(self, model, **hints):
        return "other" if model._meta.app_label in self.apps else None

    db_for_write = db_for_read


@pytest.fixture(params=SPLITS)
def split(request, settings):
    settings.DATABASE_ROUTERS = [KeepInOther(SPLITS[request.param])]
    return request.param


@pytest.fixture
def log_in_other(settings):
    settings.DATABASE_ROUTERS = [KeepInOther({"bgtask_admin"})]


def start(verb: str, user=None, **query: str) -> Operation:
    seen = Preview.take(ACTIONS[verb], Selection.parse_narrow(query))
    return run.start(seen, OPTIONS.get(verb, {}), user=user, by="" if user else "shell")


@pytest.mark.parametrize("verb", OFFERED)
def test_every_action_runs_and_is_logged(admin_client, split, verb):
    task = TaskFactory(status=STATUSES.get(verb, Status.READY))

    page = admin_client.post(f"{TASKS}{task.pk}/do/{verb}/", OPTIONS.get(verb, {}))

    operation = Operation.objects.get()
    assert page.status_code == 302
    assert (operation.by, operation.changed, operation.state) == ("admin", 1, "done")
    assert LogEntry.objects.get().object_id == str(task.pk)


def test_confirmed_action_runs_is_logged_and_is_shown(admin_client, split):
    task = TaskFactory(status=Status.FAILED)
    page = admin_client.get(f"{CONFIRM}?verb=requeue&status=FAILED").content.decode()
    signed = html.unescape(re.search(r'name="preview" value="([^"]*)"', page)[1])

    admin_client.post(CONFIRM, {"preview": signed, "reason": "INC-77"})

    operation = Operation.objects.get()
    assert (operation.changed, operation.reason) == (1, "INC-77")
    for url in (OPERATIONS, f"{OPERATIONS}{operation.pk}/change/", f"{TASKS}{task.pk}/change/"):
        assert admin_client.get(url).status_code == 200


def test_pause_and_resume_are_logged(admin_client, split):
    worker = WorkerFactory(state=WorkerState.DEAD)
    TaskFactory(status=Status.RUNNING, locked_by=worker)

    for path, fields in (
        ("hold/", {"name": "shop.send"}),
        ("release/", {"name": "shop.send"}),
        ("pause/", {"name": "mail"}),
        ("resume/", {"name": "mail"}),
        (f"worker/{worker.pk}/release/", {}),
    ):
        assert admin_client.post(f"{LANDING}{path}", fields).status_code == 302

    assert list(Operation.objects.order_by("pk").values_list("verb", "state", "changed")) == [
        ("hold_type", "done", 0),
        ("release_type", "done", 0),
        ("pause", "done", 0),
        ("resume", "done", 0),
        ("rescue", "done", 1),
    ]
    assert not TaskHold.objects.exists()
    assert not QueuePause.objects.exists()


def test_deleting_a_user_does_not_read_the_log_and_keeps_the_name(admin_user, split):
    TaskFactory(status=Status.FAILED)
    operation = start(Verb.REQUEUE, admin_user, status="FAILED")

    with CaptureQueriesContext(connection) as captured:
        get_user_model().objects.get(pk=admin_user.pk).delete()

    assert not [one for one in captured if "bgtask_admin_operation" in one["sql"]]
    run.step(operation)  # By somebody else: a history of nobody is not written.
    found = Operation.objects.get()
    assert (found.by, found.changed, found.state) == ("admin", 1, OperationState.DONE)
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("model", [TaskHold, QueuePause])
def test_pause_is_not_stored_if_logging_fails(admin_user, split, model, monkeypatch):
    """A change and its entry in the log: both, or neither."""
    client = Client(raise_request_exception=False)
    client.force_login(admin_user)
    monkeypatch.setattr(Operation, "save", refuse)

    page = client.post(f"{LANDING}{'hold' if model is TaskHold else 'pause'}/", {"name": "mail"})

    assert page.status_code == 409
    assert not model.objects.exists()
    assert not Operation.objects.exists()


@pytest.mark.parametrize("model", [TaskHold, QueuePause])
def test_failed_pause_is_logged_only_as_stopped(admin_client, split, model, monkeypatch):
    """A change and its entry in the log: an entry across two databases says what failed."""
    monkeypatch.setattr(model, "save", refuse)

    page = admin_client.post(
        f"{LANDING}{'hold' if model is TaskHold else 'pause'}/", {"name": "mail"}
    )

    assert page.status_code == 409
    expected = [] if split == "tasks and log" else [("stopped", 0)]
    assert list(Operation.objects.values_list("state", "changed")) == expected


def refuse(*args, **kwargs):
    raise DatabaseError("disk full")


def test_failed_chunk_is_repeated(split, monkeypatch):
    """A mark in the log follows the tasks: no chunk is skipped that was rolled back."""
    monkeypatch.setattr(run, "CHUNK", 2)
    TaskFactory.create_batch(5)
    operation = start(Verb.HOLD, status="READY")
    with pytest.raises(DatabaseError), refused(Task, "status"):
        run.step(operation)

    operation = run.step(Operation.objects.get(), seconds=60)

    assert (operation.changed, operation.skipped, Task.objects.held().count()) == (5, 0, 5)


def test_changes_by_others_after_a_failure_are_not_counted(log_in_other):
    """A mark in the log follows the tasks: a chunk that was rolled back has changed nothing."""
    task, *others = TaskFactory.create_batch(3)
    operation = start(Verb.HOLD, status="READY")
    with pytest.raises(DatabaseError), refused(Task, "status"):
        run.step(operation)
    task.cancel()

    operation = run.step(Operation.objects.get(), seconds=60)

    assert (operation.changed, operation.skipped) == (len(others), 1)


@pytest.mark.parametrize("alias", ["default", "other"])
def test_atomic_requests_does_not_hold_back_the_commit_of_the_log(
    admin_client, log_in_other, monkeypatch, alias
):
    """A change and its entry in the log: the entry is committed before the change is made."""
    monkeypatch.setitem(connections[alias].settings_dict, "ATOMIC_REQUESTS", True)
    was_open = []
    update = QuerySet.update_or_create
    monkeypatch.setattr(
        QuerySet,
        "update_or_create",
        lambda *args, **given: [
            was_open.append(connections["other"].in_atomic_block),
            update(*args, **given),
        ][1],
    )

    admin_client.post(f"{LANDING}pause/", {"name": "mail"})

    assert QueuePause.objects.get().queue == "mail"
    assert was_open == [False]


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [True, False], ids=["ticked", "all that match"])
@pytest.mark.parametrize("verb", OFFERED)
def test_a_chunk_whose_mark_was_lost_is_counted_once(log_in_other, admin_user, verb, chosen):
    """A mark in the log follows the tasks: what was done before a crash is told as done."""
    status = STATUSES.get(verb, Status.READY)
    tasks = TaskFactory.create_batch(3, status=status)
    query = {"ids": ",".join(str(task.pk) for task in tasks)} if chosen else {"status": status}
    operation = start(verb, admin_user, **query)
    with pytest.raises(DatabaseError), refused(Operation, "changed"):
        run.step(operation)
    tokens = dict(Task.objects.values_list("pk", "token"))

    operation = run.step(Operation.objects.get(), seconds=60)

    assert (operation.state, operation.matched) == (OperationState.DONE, 3)
    assert (operation.changed, operation.skipped_data) == (3, {})
    assert dict(Task.objects.values_list("pk", "token")) == tokens
    assert sorted(LogEntry.objects.values_list("object_repr", flat=True)) == sorted(map(str, tasks))


@pytest.mark.parametrize("chosen", [True, False], ids=["ticked", "all that match"])
def test_step_that_does_not_know_of_a_chunk_gives_way(log_in_other, chosen):
    """A mark in the log follows the tasks: a chunk that is begun is neither replaced nor ended."""
    tasks = TaskFactory.create_batch(3)
    ids = ",".join(str(task.pk) for task in tasks)
    mine = start(Verb.HOLD, **({"ids": ids} if chosen else {"status": "READY"}))
    yours = Operation.objects.get()
    with pytest.raises(DatabaseError), refused(Operation, "changed"):
        run.step(mine)

    for _ in range(2):
        run.step(yours)

    assert (yours.state, yours.changed, yours.skipped) == (OperationState.DONE, 3, 0)


def test_chunk_marked_by_another_step_is_not_counted_again(log_in_other):
    """A mark in the log follows the tasks: of two who step, one counts."""
    TaskFactory.create_batch(3)
    mine = start(Verb.HOLD, status="READY")
    with pytest.raises(DatabaseError), refused(Operation, "changed"):
        run.step(mine)
    yours = Operation.objects.get()
    run.step(Operation.objects.get())

    run.step(yours)
    run.step(mine)

    assert Operation.objects.values_list("changed", "skipped").get() == (3, 0)
