"""Report tasks that were rescued by another process than a worker."""

from __future__ import annotations

from bgtask.db.routing import database_now, queue_alias
from bgtask.lifecycle.attempts import Outcome
from bgtask.worker.events import dispatch
from bgtask.worker.statistics import Statistics


def announce(outcomes: list[Outcome]) -> None:
    """Log, signal and count these outcomes on behalf of the dead worker."""
    if not outcomes:
        return
    ended = [(outcome, str(outcome.status)) for outcome in outcomes]
    try:
        dispatch(ended)
    finally:
        alias = queue_alias()
        statistics = Statistics()
        statistics.set_clock(database_now(alias))
        statistics.add(ended)
        statistics.write(alias, statistics.take())
