"""How many tasks are claimed, and how many outcomes are written, at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from django.db import connection, connections
from django.db.backends.signals import connection_created

from bgtask.context import CurrentTask
from bgtask.lifecycle.attempts import Outcome
from bgtask.lifecycle.claim import claim_queue
from bgtask.models import Task, Worker
from bgtask.status import Status
from bgtask.worker import Runner
from bgtask.worker.completer import MAX_FLUSH_BATCH as MOST_WRITTEN
from bgtask.worker.completer import Completer
from bgtask.worker.pool import MAX_PREFETCHED_TASKS as MOST_CLAIMED
from bgtask.worker.pool import Pool
from tests.bgtask.lifecycle.outcomes import success
from tests.helpers import eventually
from tests.tasks import nap, noop


@contextmanager
def pool_of(threads):
    ended: list[Outcome] = []
    pool = Pool(threads, may_start=lambda: True, on_end=ended.append, on_hungry=lambda: None)
    pool.start()
    try:
        yield pool, ended
    finally:
        assert pool.close(float("inf"))


def tasks_of(function, *args, number=1):
    text = f"[[{', '.join(map(str, args))}], {{}}]"
    return [
        Task(pk=pk, task_name=function.name, task_params=text, status=Status.RUNNING)
        for pk in range(1, number + 1)
    ]


class TestClaimingAhead:
    def test_pool_begins_with_one_task_per_thread(self):
        with pool_of(3) as (pool, _):
            assert pool.wanted() == 3

    def test_pool_wants_hundreds_of_short_tasks(self):
        with pool_of(1) as (pool, ended):
            pool.submit(tasks_of(noop, number=200))
            eventually(lambda: len(ended) == 200)
            eventually(lambda: pool.is_idle)

            assert 100 <= pool.wanted() <= MOST_CLAIMED

    def test_pool_wants_one_task_per_free_thread_after_a_slow_task(self):
        with pool_of(2) as (pool, ended):
            pool.submit(tasks_of(noop, number=200))
            eventually(lambda: len(ended) == 200)
            pool.submit(tasks_of(nap, 0.3))
            eventually(lambda: len(ended) == 201)
            eventually(lambda: pool.is_idle)

            assert pool.wanted() == 2


class TestStarting:
    def test_waits_until_it_may(self):
        asked, allowed, ended = [], [], []

        def may_start():
            asked.append(True)
            return bool(allowed)

        pool = Pool(2, may_start=may_start, on_end=ended.append, on_hungry=lambda: None)
        pool.start()
        try:
            pool.submit(tasks_of(noop, number=3))
            eventually(lambda: len(asked) >= 4, timeout=5)
            assert ended == []

            allowed.append(True)
            eventually(lambda: len(ended) == 3)
        finally:
            assert pool.close(float("inf"))

    def test_a_thread_is_stuck_once_its_lost_task_has_had_the_grace_period(self, settings):
        settings.BGTASK = {"GRACE_PERIOD": 30}
        pool = Pool(3, may_start=lambda: True, on_end=print, on_hungry=lambda: None)
        now = time.monotonic()
        for thread, lost_at in enumerate([None, now - 1, now - 300]):
            pool._running[thread] = CurrentTask(Task(), lost_at=lost_at)

        assert pool.stuck == 1


@pytest.mark.django_db(transaction=True)
class TestWriting:
    def test_flush_takes_all_waiting_outcomes_up_to_its_limit(self):
        noop.enqueue_many((n,) for n in range(2 * MOST_WRITTEN + 50))
        claimed = claim_queue(Worker.register(), "default", 2 * MOST_WRITTEN + 50)
        batches = []
        completer = Completer(lambda accepted, _: batches.append(len(accepted)), lambda: False)
        for task in claimed:
            completer.put(success(task))

        completer.start()
        assert completer.stop(60)

        assert batches == [MOST_WRITTEN, MOST_WRITTEN, 50]
        assert Task.objects.succeeded().count() == len(claimed)

    def test_runner_claims_many_tasks_at_once(self):
        number = 2_000
        noop.enqueue_many((n,) for n in range(number))
        asked: Counter[str] = Counter()

        with _every_statement(asked):
            assert Runner(drain=True).run()

        assert Task.objects.succeeded().count() == number
        assert asked.total() < number / 5, asked

    @pytest.mark.vendor("postgresql")
    def test_notified_runner_claims_before_it_polls(self):
        said: list[str] = []
        runner = Runner(sleep=3600)

        def run():
            runner.run()
            connections.close_all()

        thread = threading.Thread(target=run, name="runner")
        with _every_statement_in_words(said):
            thread.start()
            try:
                for number in range(1, 6):  # The first may come while it still looks around.
                    eventually(lambda: "look" in said)
                    said.clear()
                    noop(number)
                    eventually(lambda n=number: Task.objects.succeeded().count() == n)
                    if said[0] == "claim":
                        break
            finally:
                runner.stop()
                thread.join()

        assert said[0] == "claim"


@contextmanager
def _every_statement_in_words(said):
    """Add a word to ``said`` for each look and each claim of the thread called "runner"."""
    words = {"WITH RECURSIVE heads": "look", "FOR UPDATE SKIP LOCKED": "claim"}

    def note(execute, sql, params, many, context):
        if threading.current_thread().name == "runner":
            said.extend(word for mark, word in words.items() if mark in sql)
        return execute(sql, params, many, context)

    def watch(sender, connection, **facts):
        connection.execute_wrappers.insert(0, note)

    connection_created.connect(watch)
    try:
        yield
    finally:
        connection_created.disconnect(watch)


@contextmanager
def _every_statement(asked):
    """Count the statements of all threads."""

    def count(execute, sql, params, many, context):
        asked[threading.current_thread().name] += 1
        return execute(sql, params, many, context)

    def watch(sender, connection, **facts):
        connection.execute_wrappers.insert(0, count)

    connection_created.connect(watch)
    try:
        with connection.execute_wrapper(count):
            yield
    finally:
        connection_created.disconnect(watch)
