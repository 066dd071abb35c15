"""
What a type checker knows of the public names; mypy is the test.

A line that must be refused says which error it is: were it accepted, mypy would report the
comment as unused.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_type

from bgtask import Retry, background, current_task
from bgtask.context import CurrentTask
from bgtask.models import Task


@background
def bare(user_id: int, name: str = "") -> float:
    return 1.5


@background(
    schedule=60,
    queue="mail",
    priority=5,
    max_attempts=3,
    max_run_time=timedelta(minutes=1),
    backoff=lambda attempts: attempts * 10,
    verbose_name="With options",
    name="tests.typing.with_options",
)
def with_options(user_id: int) -> None: ...


@background
async def coroutine(number: int) -> int:
    return number


def calls() -> None:
    assert_type(bare(1), Task)
    assert_type(bare(1, schedule=90, queue="mail"), Task)
    assert_type(bare(1, run_after=90, queue_name="mail"), Task)
    assert_type(bare.using(run_after=datetime(2060, 1, 1), queue_name="mail").enqueue(1), Task)
    background(run_after=60, queue_name=None)
    assert_type(bare.enqueue(1, name="Ada"), Task)
    assert_type(bare.now(1), float)
    assert_type(coroutine.now(1), int)
    assert_type(bare.using(priority=5, schedule=timedelta(hours=1)).enqueue(1), Task)
    assert_type(bare.using(schedule=datetime(2060, 1, 1)).now(1), float)
    assert_type(bare.enqueue_many([(1,), {"user_id": 2}]), int)


def refused() -> None:
    bare.enqueue()  # type: ignore[call-arg]
    bare.enqueue("Ada")  # type: ignore[arg-type]
    bare.enqueue(1, colour="red")  # type: ignore[call-arg]
    bare.now(1, 2)  # type: ignore[arg-type]
    bare.using(colour="red")  # type: ignore[call-arg]
    bare.using(queue=5)  # type: ignore[arg-type]
    bare.using(queue_name=5)  # type: ignore[arg-type]
    bare.using(run_after="soon")  # type: ignore[arg-type]
    background(max_attempts="3")  # type: ignore[call-overload]
    Retry(in_="soon")  # type: ignore[arg-type]


async def awaited() -> None:
    assert_type(await bare.aenqueue(1), Task)
    await bare.aenqueue("Ada")  # type: ignore[arg-type]


def told() -> None:
    assert_type(current_task(), CurrentTask | None)
