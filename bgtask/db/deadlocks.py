"""Call a function again whose transaction the database has rolled back to end a deadlock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from bgtask.db.refusals import is_deadlock
from bgtask.loggers import get_logger

logger = get_logger(__name__)

TRIES = 5

T = TypeVar("T")


def again_after_deadlock(connection: BaseDatabaseWrapper, function: Callable[[], T]) -> T:
    """
    Return what the function returns. After a deadlock, call it again, a few times.

    Within a transaction of the caller, call it once: that transaction has been rolled back, so
    only the caller can repeat it.
    """
    tries = 1 if connection.in_atomic_block else TRIES
    for _ in range(tries - 1):
        try:
            return function()
        except OperationalError as error:
            if not is_deadlock(error):
                raise
            logger.info("The database has ended a deadlock. The transaction is repeated: %s", error)
    return function()
