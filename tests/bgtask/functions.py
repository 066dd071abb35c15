"""Background functions for the tests of @background and of calls."""

from __future__ import annotations

import asyncio
import functools
from datetime import timedelta

from bgtask import background

notified: list[int] = []


@background(schedule=60)
def notify_user(user_id):
    """Look the user up and send a mail."""
    notified.append(user_id)
    return f"user {user_id}"


@background
def bare(*args, **kwargs):
    return [list(args), kwargs]


@background()
def with_empty_parentheses(number):
    return number


@background(
    name="tests.everything",
    schedule=timedelta(minutes=5),
    queue="mail",
    priority=3,
    max_attempts=4,
    max_run_time=timedelta(minutes=2),
    backoff=30,
    verbose_name="Everything there is",
)
def with_every_option():
    pass


@background(queue="reports")
def has_its_own_queue(queue, priority=0):
    return [queue, priority]


@background
def repeats(text, repeat, creator=None):
    return [text, repeat, creator]


@background
async def doubled(number):
    await asyncio.sleep(0)
    return 2 * number


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return ["logged", function(*args, **kwargs)]

    return wrapper


@background
@logged
def decorated_twice(number):
    return number
