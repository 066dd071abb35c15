"""What was claimed and not started goes back, or aside, as if it had not been claimed."""

from __future__ import annotations

import pytest

from bgtask.lifecycle.claim import claim_queue, release_claims, set_aside_claims
from bgtask.models import Attempt, Task
from bgtask.status import HeldFor, Status
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

STATE = ("status", "held_for", "token", "attempts", "locked_by", "locked_at", "deadline_at")


def state_of(task):
    return Task.objects.filter(pk=task.pk).values_list(*STATE).get()


def everything():
    return list(Task.objects.order_by("pk").values())


@pytest.fixture(params=["release", "set_aside"])
def return_claims(request):
    """Both ways back: told of tasks, each returns how many went it."""
    if request.param == "release":
        return release_claims
    return lambda tasks: set_aside_claims(tasks, HeldFor.UNKNOWN)


def test_released_task_is_ready_and_its_attempt_does_not_count():
    before = TaskFactory(token=6, attempts=2)
    (task,) = claim_queue(WorkerFactory(), "default", 1)

    release_claims([task])

    assert state_of(task) == (Status.READY, None, task.token + 1, 2, None, None, None)
    assert Task.objects.get().run_at == before.run_at
    assert Task.objects.get().finished_at is None


@pytest.mark.parametrize("reason", HeldFor)
def test_set_aside_task_is_held_for_a_reason_and_its_attempt_does_not_count(reason):
    TaskFactory(token=6, attempts=2)
    (task,) = claim_queue(WorkerFactory(), "default", 1)

    set_aside_claims([task], reason)

    assert state_of(task) == (Status.HELD, reason, task.token + 1, 2, None, None, None)


def test_release_writes_no_history(return_claims):
    TaskFactory()

    return_claims(claim_queue(WorkerFactory(), "default", 1))

    assert not Attempt.objects.exists()


def test_released_task_can_be_claimed_again_with_another_token():
    TaskFactory()
    (task,) = claim_queue(WorkerFactory(), "default", 1)
    release_claims([task])

    (again,) = claim_queue(WorkerFactory(), "default", 1)

    assert (again.pk, again.attempts) == (task.pk, 1)
    assert again.token > task.token + 1


def test_release_cancels_a_task_with_a_cancel_request(return_claims):
    TaskFactory()
    (task,) = claim_queue(WorkerFactory(), "default", 1)
    task.cancel()

    number = return_claims([task])

    assert number == 1
    assert state_of(task) == (Status.CANCELLED, None, task.token + 1, 0, None, None, None)
    assert Task.objects.get().finished_at is not None


def test_release_handles_cancelled_tasks_and_different_tokens_together(return_claims):
    TaskFactory.create_batch(2)
    TaskFactory(token=7)
    cancelled, plain, other = claim_queue(WorkerFactory(), "default", 3)
    cancelled.cancel()

    number = return_claims([cancelled, plain, other])

    assert number == 3
    assert state_of(cancelled)[0] == Status.CANCELLED
    assert state_of(plain)[0] == state_of(other)[0] != Status.CANCELLED
    assert cancelled.token == plain.token == other.token - 7
    for task in (cancelled, plain, other):
        assert state_of(task)[2] == task.token + 1


def test_empty_batch_has_no_effect(return_claims):
    assert return_claims([]) == 0


def test_a_task_whose_attempts_were_set_to_zero_meanwhile_has_no_fewer(return_claims):
    """Kind of fault: one row whose counter would go below zero fails the release of all others."""
    edited, other = TaskFactory.create_batch(2, status=Status.RUNNING, attempts=1, token=1)
    Task.objects.filter(pk=edited.pk).update(attempts=0)

    assert return_claims([edited, other]) == 2

    assert set(Task.objects.values_list("attempts", flat=True)) == {0}


class TestFence:
    def test_an_old_token_changes_nothing(self, return_claims):
        TaskFactory()
        (stale,) = claim_queue(WorkerFactory(), "default", 1)
        release_claims([Task.objects.get(pk=stale.pk)])
        claim_queue(WorkerFactory(), "default", 1)
        before = everything()

        assert return_claims([stale]) == 0
        assert everything() == before

    @pytest.mark.parametrize("status", sorted(set(Status) - {Status.RUNNING}))
    def test_task_that_is_not_running_is_left_alone_even_with_the_right_token(
        self, return_claims, status
    ):
        task = TaskFactory(status=status)
        before = everything()

        assert return_claims([task]) == 0
        assert everything() == before

    def test_stale_task_does_not_block_other_tasks(self, return_claims):
        TaskFactory.create_batch(2)
        stale, fresh = claim_queue(WorkerFactory(), "default", 2)
        Task.objects.get(pk=stale.pk).cancel(force=True)

        assert return_claims([stale, fresh]) == 1
        assert state_of(stale)[0] == Status.CANCELLED
        assert state_of(fresh)[0] != Status.RUNNING

    def test_released_task_is_not_released_again(self, return_claims):
        TaskFactory()
        (task,) = claim_queue(WorkerFactory(), "default", 1)

        assert (return_claims([task]), return_claims([task])) == (1, 0)
