from __future__ import annotations

from typing import Any

import pytest

from bgtask.db import DatabaseNow
from bgtask.health import error_groups, failing_now
from bgtask.models import Task
from bgtask.status import AttemptOutcome, Status
from tests.factories import AttemptFactory, TaskFactory

pytestmark = pytest.mark.django_db

SMTP, TIMEOUT = "5" * 32, "7" * 32


def test_no_error_group_exists_without_failures() -> None:
    TaskFactory(status=Status.SUCCESSFUL)

    assert failing_now().groups == ()


def test_attempts_with_one_fingerprint_form_a_group_and_the_largest_is_first() -> None:
    AttemptFactory(error_fingerprint=TIMEOUT, error_class="TimeoutError")
    AttemptFactory.create_batch(3, error_fingerprint=SMTP, error_class="SMTPError")

    groups = failing_now().groups

    assert [(group.error_class, group.count) for group in groups] == [
        ("SMTPError", 3),
        ("TimeoutError", 1),
    ]


def test_newest_attempt_describes_its_group() -> None:
    first: Any = AttemptFactory(finished_at=DatabaseNow(-300), message="user 7 not found\nmore")
    last: Any = AttemptFactory(finished_at=DatabaseNow(-5), message="user 8 not found\nmore")

    (group,) = failing_now().groups

    assert group.message == "user 8 not found"
    assert group.newest_task == last.task_id
    assert (group.first_seen, group.last_seen) == (first.finished_at, last.finished_at)


def test_attempts_tasks_and_failed_tasks_are_counted_separately() -> None:
    for status in (Status.SCHEDULED, Status.FAILED):
        task = TaskFactory(status=status, error_fingerprint=SMTP)
        AttemptFactory.create_batch(2, task=task, error_fingerprint=SMTP)
    TaskFactory(status=Status.FAILED, error_fingerprint=SMTP, finished_at=DatabaseNow(-99_999))

    (group,) = failing_now().groups

    assert (group.count, group.tasks, group.failed) == (4, 2, 2)


def test_group_names_the_affected_tasks_and_queues() -> None:
    often = TaskFactory(status=Status.FAILED, task_name="app.send", queue="mail")
    once = TaskFactory(status=Status.FAILED, task_name="app.invite", queue="default")
    AttemptFactory.create_batch(2, task=often)
    AttemptFactory(task=once)

    (group,) = failing_now().groups

    assert group.task_names == ("app.send", "app.invite")
    assert group.queues == ("mail", "default")


def test_older_attempts_and_other_outcomes_are_left_out() -> None:
    AttemptFactory(finished_at=DatabaseNow(-700))
    AttemptFactory(outcome=AttemptOutcome.CANCELLED)
    AttemptFactory(outcome=AttemptOutcome.INTERRUPTED)

    assert failing_now(window=600).groups == ()
    assert len(failing_now(window=800).groups) == 1


@pytest.mark.parametrize("outcome", [AttemptOutcome.LOST, AttemptOutcome.TIMED_OUT])
def test_rescued_task_counts_as_failed(outcome: AttemptOutcome) -> None:
    AttemptFactory(outcome=outcome)

    assert failing_now().groups[0].count == 1


def test_only_the_newest_attempts_are_read_and_the_limit_is_reported(monkeypatch) -> None:
    monkeypatch.setattr(error_groups, "CAP", 3)
    task = TaskFactory(status=Status.FAILED)
    for age in range(1, 11):
        AttemptFactory(task=task, finished_at=DatabaseNow(-age * 10))

    now = failing_now()

    assert now.capped
    assert now.groups[0].count == 3
    assert now.groups[0].first_seen > now.since


def test_all_attempts_are_read_if_there_are_few() -> None:
    AttemptFactory()

    assert not failing_now().capped


def test_number_of_groups_is_limited() -> None:
    for number in range(5):
        AttemptFactory(error_fingerprint=str(number) * 32)

    assert len(failing_now(limit=2).groups) == 2


@pytest.mark.parametrize("number", [1, 8])
def test_error_groups_take_few_queries_with_any_number_of_failures(
    django_assert_max_num_queries, number: int
) -> None:
    for index in range(number):
        AttemptFactory(error_fingerprint=str(index) * 32)

    with django_assert_max_num_queries(5):
        failing_now()


def test_attempts_of_pruned_tasks_are_deleted() -> None:
    attempt: Any = AttemptFactory()
    Task.objects.filter(pk=attempt.task_id).delete()

    assert failing_now().groups == ()
