"""
The database loses its newest commits: stale outcomes must not meet newer attempts or other tasks.

An asynchronous failover and a power cut without sync put rows, tokens and ids back to older values.
The memory of the workers stays as it was.
"""

from __future__ import annotations

import os
import random

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from bgtask.db.sql import TOKEN_CEILING, TOKEN_JUMP_MAX, token_jump
from bgtask.lifecycle.claim import claim_queue, release_claims, set_aside_claims
from bgtask.lifecycle.finish import already_finished, finish_attempts
from bgtask.lifecycle.rescue import rescue_tasks
from bgtask.models import Attempt, Task
from bgtask.status import HeldFor, Status
from tests.bgtask.lifecycle.outcomes import failure, retry, success
from tests.factories import TaskFactory, WorkerFactory

pytestmark = pytest.mark.django_db

KINDS = {"success": success, "failure": failure, "retry": retry}


def claim(number=1):
    return claim_queue(WorkerFactory(), "default", number)


class Standby:
    """The rows as they are now, which ``take_over`` writes back."""

    def __init__(self):
        self._rows = list(Task.objects.values())

    def take_over(self):
        Attempt.objects.all().delete()
        Task.objects.all().delete()
        Task.objects.bulk_create([Task(**row) for row in self._rows])


@pytest.mark.parametrize("kind", KINDS)
def test_outcome_of_a_lost_claim_is_refused_and_that_of_the_newer_attempt_accepted(kind):
    TaskFactory()
    standby = Standby()
    (lost,) = claim()
    standby.take_over()
    (newer,) = claim()
    before = Task.objects.values().get()

    assert finish_attempts([KINDS[kind](lost)]) == {}
    assert already_finished([KINDS[kind](lost)]) == {}
    assert release_claims([lost]) == 0
    assert set_aside_claims([lost], HeldFor.TYPE) == 0
    assert Task.objects.values().get() == before

    assert finish_attempts([success(newer)]) == {newer.pk: Status.SUCCESSFUL}
    # Neither by asking what became of it: the row is as its own success would have left it.
    assert already_finished([KINDS[kind](lost)]) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_outcome_of_a_lost_task_is_not_written_to_the_task_that_got_its_id(kind):
    standby = Standby()
    lost_id = TaskFactory(task_params="[[1], {}]").pk
    (lost,) = claim()
    standby.take_over()
    TaskFactory(pk=lost_id, task_params="[[2], {}]")
    (other,) = claim()

    assert finish_attempts([KINDS[kind](lost)]) == {}
    assert already_finished([KINDS[kind](lost)]) == {}
    assert finish_attempts([success(other)]) == {lost_id: Status.SUCCESSFUL}
    assert already_finished([KINDS[kind](lost)]) == {}


def test_lost_attempts_after_a_rescue_or_a_requeue_are_fenced_off_too():
    """Those moves add one to the token: that must not lead to a token which a claim had given."""
    TaskFactory()
    (first,) = claim()
    release_claims([first])
    standby = Standby()
    tokens = []
    for _ in range(5):
        (task,) = claim()
        tokens.append(task.token)
        Task.objects.cancel(force=True)
        Task.objects.requeue()
        (task,) = claim()
        tokens.append(task.token)
        standby.take_over()

    assert len(set(tokens)) == len(tokens)
    assert first.token not in tokens


def test_one_claim_raises_all_its_tokens_by_one_number_so_that_a_release_is_one_update():
    TaskFactory.create_batch(20)
    tasks = claim(20)

    assert len({task.token for task in tasks}) == 1
    with CaptureQueriesContext(connection) as asked:
        assert release_claims(tasks) == 20
    assert sum("UPDATE" in query["sql"] for query in asked) == 1


def test_token_jump_is_within_its_bounds():
    numbers = [token_jump() for _ in range(1_000)]

    assert min(numbers) >= 1
    assert max(numbers) <= TOKEN_JUMP_MAX
    assert max(numbers) > TOKEN_JUMP_MAX // 2  # 1 chance in 2 ** 1000 to fail.
    assert len(set(numbers)) > 990


def test_seeded_global_random_does_not_make_two_workers_draw_the_same_numbers():
    random.seed(1)
    first = [token_jump() for _ in range(3)]
    random.seed(1)

    assert first != [token_jump() for _ in range(3)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_forked_child_does_not_draw_the_numbers_of_its_parent():
    token_jump()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        os.write(writer, " ".join(str(token_jump()) for _ in range(3)).encode())
        os._exit(0)
    ours = [token_jump() for _ in range(3)]
    os.waitpid(child, 0)
    theirs = [int(number) for number in os.read(reader, 1_000).split()]
    os.close(reader)
    os.close(writer)

    assert len(theirs) == 3
    assert theirs != ours


@pytest.mark.parametrize("token", [TOKEN_CEILING - 1, TOKEN_CEILING, 2**63 - 2, 2**63 - 1])
def test_token_near_the_maximum_stops_neither_its_task_nor_the_queue(token):
    """The token was edited by hand. No move may exceed 64 bits, and the fence still works."""
    edited = TaskFactory(token=token)
    neighbour = TaskFactory()

    first = claim(2)
    assert [task.pk for task in first] == [edited.pk, neighbour.pk]
    assert dict(Task.objects.values_list("pk", "token")) == {task.pk: task.token for task in first}
    assert release_claims(first) == 2
    again = claim(2)

    assert again[0].token != first[0].token
    assert finish_attempts([success(first[0])]) == {}
    assert len(finish_attempts([success(task) for task in again])) == 2
    assert Task.objects.requeue() == 2


@pytest.mark.parametrize("verb", ["requeue", "rescue", "cancel"])
def test_moves_that_add_one_to_a_token_at_the_maximum_do_not_fail(verb):
    fields = {"token": 2**63 - 1, "attempts": 1}
    if verb == "requeue":
        TaskFactory(status=Status.FAILED, **fields)
        assert Task.objects.requeue() == 1
    else:
        TaskFactory(status=Status.RUNNING, locked_by=WorkerFactory(dead=True), **fields)
        moved = rescue_tasks() if verb == "rescue" else Task.objects.cancel(force=True)
        assert moved
    assert Task.objects.get().token == TOKEN_CEILING + 1
    assert Task.objects.get().status in (Status.READY, Status.CANCELLED)
