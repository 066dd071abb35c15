"""The loop: look what there is, claim, hand out, sleep."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from django.db import DataError, Error, IntegrityError

from bgtask import registry
from bgtask.conf import get_settings, require_autocommit
from bgtask.db.routing import queue_alias
from bgtask.db.transactions import TransactionsRefused, check_transactions
from bgtask.lifecycle.outcome import Outcome
from bgtask.lifecycle.promote import unhold_known
from bgtask.models import Task, Worker
from bgtask.worker.child import COMPLETED, EXITING, NO_WORKER, REFUSED
from bgtask.worker.claimer import Claimer
from bgtask.worker.completer import Completer
from bgtask.worker.connecting import prepared_connections
from bgtask.worker.connections import reset_connection
from bgtask.worker.events import EventDispatcher
from bgtask.worker.heartbeat import Heartbeat
from bgtask.worker.in_flight import InFlightTasks
from bgtask.worker.isolation import IsolationGate
from bgtask.worker.listeners import listener_for
from bgtask.worker.maintenance import Maintenance
from bgtask.worker.pauses import growing_pause, is_worth_logging
from bgtask.worker.pool import Pool
from bgtask.worker.primary import Primary
from bgtask.worker.statistics import Statistics
from bgtask.worker.waker import Waker
from bgtask.worker.watchdog import Watchdog, limit_waiting, watched

logger = logging.getLogger("bgtask")

MIN_POLL_INTERVAL_SECONDS = (
    0.003  # Seconds after a look in vain in which nothing wakes it to look again.
)
MAX_UNWRITTEN_OUTCOMES = (
    500  # Unwritten outcomes at which nothing more is started: what a crash may repeat.
)
MAX_EVENT_BACKLOG = (
    10_000  # Outcomes to be announced at which nothing more is started: receivers are slow.
)
MIN_STATEMENT_SECONDS = (
    2.0  # Seconds that a statement is given at the least; else a quarter of the lease.
)


class Runner:
    """
    Claims tasks and has them executed, until told to stop.

    ``queues`` None serves all. ``sleep`` is the longest pause, in seconds, when nothing was found;
    ``duration``, if not 0, the seconds after which it stops; ``drain`` stops it when nothing is
    due, ``max_tasks`` after so many. ``report`` is how a supervisor is told that this process
    lives, and why it leaves; under one, a process with a stuck thread ends to be replaced.
    """

    worker: Worker

    def __init__(
        self,
        *,
        queues: Sequence[str] | None = None,
        threads: int = 1,
        sleep: float = 5.0,
        duration: float = 0.0,
        drain: bool = False,
        max_tasks: int | None = None,
        report: Callable[[object], None] | None = None,
    ) -> None:
        self.queues = tuple(queues) if queues else None
        self._sleep = sleep
        self._duration = duration
        self._drain = drain
        self._max_tasks = max_tasks
        self._is_supervised = report is not None
        self._report = report or (lambda word: None)
        self._alias = queue_alias()
        require_autocommit(self._alias)
        self._waker = Waker()
        self._stopping = False
        self._stop_by: float | None = None  # When patience with running tasks ends.
        self._forced = False
        self._to_be_replaced = False
        self._astray = ""  # Why this process seems to be connected to two servers.
        self._declared_dead_at: float | None = None
        self._is_broken = False
        self._is_stop_recorded = False
        self._all_done = False
        limit_waiting(self._alias)
        self._primary = Primary(self._alias)
        self._watchdog = Watchdog(max(get_settings().lease / 4, MIN_STATEMENT_SECONDS))
        self._statistics = Statistics()
        self._events = EventDispatcher()
        self._completer = Completer(self._done, lambda: self._pool.is_idle)
        self._pool = Pool(
            threads,
            may_start=self._may_start,
            on_end=self._completer.put,
            on_hungry=self._waker.wake,
        )
        self._maintenance = Maintenance(
            may_judge=lambda: self._heartbeat.steady(),
            is_idle=lambda: not self._in_flight_tasks,
            on_rescued=self._rescued,
        )
        self._in_flight_tasks = InFlightTasks()
        self._isolation = IsolationGate()
        self._claimer = Claimer(
            self.queues,
            self._in_flight_tasks,
            self._pool,
            self._isolation,
            changed_queues=lambda: self._listener.changed_queues(),
            on_poll=self._polled,
        )
        self._poll_again_at = 0.0
        self._poll_not_before = 0.0
        self._next_due: float | None = None
        self._failures = 0

    # Life

    def run(self) -> bool:
        """
        Until stopped; False if a task had to be left running, or an outcome unwritten.

        Raise TransactionsRefused if the database allows no transactions.
        """
        with prepared_connections(), self._primary.comparing():
            return self._run()

    def _run(self) -> bool:
        end = time.monotonic() + self._duration if self._duration > 0 else None
        self._listener = listener_for(self._waker, self._alias, self.queues)
        self._watchdog.start()
        try:
            has_reported = self._register()
        except TransactionsRefused:
            self._watchdog.stop()
            self._report(REFUSED)
            raise
        if not has_reported:
            self._watchdog.stop()
            if why := self._astray or self._on_stale_server():
                self._end(why)
                return False
            self._report(EXITING)
            return True
        for part in (self._pool, self._completer, self._events, self._maintenance):
            part.start()
        logger.info(
            "Worker %s takes tasks from %s.",
            self.worker,
            "all queues" if self.queues is None else ", ".join(self.queues),
        )
        try:
            while not self._stopping:
                self._listener.arm()
                with watched(self._alias):
                    found = self._run_once()
                if self._is_over(end, found):
                    break
                if not found:
                    self._listener.sleep(self._pause(end))
        except BaseException:
            self._is_broken = True
            self._stop_by = time.monotonic() + get_settings().grace_period
            raise
        finally:
            clean = self._leave()
            self._watchdog.stop()
            self._listener.close()
            self._waker.close()
        logger.info("Worker %s has left.", self.worker)
        clean &= not self._to_be_replaced
        if clean:
            self._report(COMPLETED if self._all_done else EXITING)
        return clean

    def stop(self) -> None:
        """
        Claim nothing more, let what runs finish, for GRACE_PERIOD seconds; a second call: at once.

        Safe to call from a signal handler.
        """
        if self._stopping:
            self._forced = True
        else:
            self._stop_by = time.monotonic() + get_settings().grace_period
        self._stopping = True
        self._waker.wake()

    def _register(self) -> bool:
        """
        Register, however long the database takes.

        Return False if this process was stopped meanwhile, or must be replaced.
        """
        while not self._stopping and not self._on_stale_server():
            started = time.monotonic()
            try:
                with watched(self._alias):
                    check_transactions(self._alias)
                    self.worker = Worker.register(self.queues or (), self._pool.threads)
            except Error as error:
                self._failed("The database does not answer", error)
                self._report(NO_WORKER)
                reset_connection(self._alias)
                self._waker.sleep(self._outage_pause())
                continue
            self._statistics.set_clock(self.worker.started_at)
            self._heartbeat = Heartbeat(
                self.worker,
                self._statistics,
                started,
                holds=lambda: bool(self._in_flight_tasks),
                stuck=lambda: self._pool.stuck,
                pulse=self._report,
                on_beat=self._beaten,
            )
            self._heartbeat.start()
            self._failures = 0
            self._unhold_known()
            return True
        return False

    def _unhold_known(self) -> None:
        """Before the first claim: what waited for this very release is not to wait for a chore."""
        try:
            with watched(self._alias):
                unhold_known(registry.names())
        except Error as error:
            self._failed("Tasks of unknown names are let go later", error)
            reset_connection(self._alias)

    def _leave(self) -> bool:
        """Give back what was not started, wait for the rest; the heartbeat stops last."""
        clean = True
        unstarted = self._pool.withdraw()
        self._pool.ask_to_stop()
        try:
            with watched(self._alias):
                self.worker.mark_stopping()
                self._in_flight_tasks.release(unstarted)
        except Error as error:
            reset_connection(self._alias)
            self._failed("Unstarted tasks could not be released", error)
            clean = False
        while not self._pool.close(time.monotonic() + 0.2):
            self._pool.ask_to_stop()  # Also what a thread had taken just before, and starts now.
            if self._stopping:
                self._record_stop()
            if self._forced or (self._stop_by is not None and time.monotonic() > self._stop_by):
                logger.error(
                    "Leaving %d tasks that are still running; they will be rescued: %s",
                    len(self._pool.running()),
                    ", ".join(str(current.task) for current in self._pool.running()[:10]),
                )
                self._record_stop()
                clean = False
                break
        clean &= self._completer.stop(1.0 if self._forced else get_settings().grace_period)
        self._maintenance.stop()
        announced = self._events.stop(1.0 if self._forced else get_settings().grace_period)
        self._heartbeat.stop()
        try:
            with watched(self._alias):
                self._heartbeat.beat()
                # Only with nothing in its hands: else others would take what is still running.
                if clean:
                    self.worker.deregister()
        except Error as error:
            reset_connection(self._alias)
            self._failed("The worker could not sign off", error)
            clean = False
        return clean and announced

    def _record_stop(self) -> None:
        """
        What is left running is no suspect where this process was told to stop, or ran out of
        patience. Who broke it is to be found, and whoever brings it down while it waits.
        """
        if self._is_stop_recorded or self._is_broken:
            return
        self._is_stop_recorded = (
            True  # Tried once: a database that is away must not delay the stop.
        )
        try:
            with watched(self._alias):
                self.worker.record_stop()
        except Error as error:
            reset_connection(self._alias)
            self._failed("That the worker was told to stop could not be noted", error)

    # One turn

    def _run_once(self) -> bool:
        """Do what there is to do; True if it is worth looking again at once."""
        try:
            if self._heartbeat.declared_dead and not self._reregister():
                return False
            self._claimer.release_stale()
            if self._in_flight_tasks.needs_reconciling:
                self._in_flight_tasks.reconcile(self.worker, self._pool.running())
                if not self._in_flight_tasks:  # A suspect that was taken back is not waited for.
                    self._isolation.running_exclusive = False
            if not self._heartbeat.trusted():
                return False
            if self._primary.refused:
                self._primary.try_again()
            wanted = self._wanted()
            if wanted and time.monotonic() < self._poll_not_before:
                self._poll_again_at = self._poll_not_before
            if time.monotonic() < (self._poll_not_before if wanted else self._poll_again_at):
                return False
            claimed = self._claimer.claim(self.worker, wanted)
        except Error as error:
            # The reply of a claim may be lost: what the database holds for us is to be compared.
            self._in_flight_tasks.needs_reconciling = True
            self._failed("The database does not answer", error)
            reset_connection(self._alias)
            return False
        self._failures = 0
        if not claimed:
            self._poll_not_before = time.monotonic() + MIN_POLL_INTERVAL_SECONDS
        return claimed > 0

    def _wanted(self) -> int:
        if self._isolation.running_exclusive or self._completer.backlog > MAX_UNWRITTEN_OUTCOMES:
            return 0
        wanted = self._pool.wanted()
        if self._max_tasks is not None:
            wanted = min(wanted, self._max_tasks - self._in_flight_tasks.claimed_total)
        return wanted

    def _polled(self, next_due: float | None) -> None:
        now = time.monotonic()
        self._poll_again_at = now + self._sleep
        self._next_due = None if next_due is None else now + next_due

    def _reregister(self) -> bool:
        """
        Declared dead: others have what was not started; what runs will be fenced off.

        Return False if this process must be replaced instead of registering again. Nobody may
        declare the new worker dead before its lease is over. If a beat doesn't find it any
        sooner, the beat went to another server.
        """
        self._in_flight_tasks.drop(self._pool.withdraw())
        self._heartbeat.stop()
        now, before = time.monotonic(), self._declared_dead_at
        self._declared_dead_at = now
        if before is not None and now < before + get_settings().lease:
            self._astray = (
                f"worker {self.worker} was declared dead {now - before:.1f} s after the one "
                "before, sooner than its lease ends. Its threads may be connected to two "
                "servers: check that the database's host names lead to one primary only"
            )
            return False
        logger.error("Worker %s was declared dead; it begins anew.", self.worker)
        return self._register()

    def _on_stale_server(self) -> str:
        """
        Return why this process gives up: for a lease, it has reached no newer server than this.

        The server may be the right one. Only a process without memories of another can use it.
        """
        seconds = self._primary.stale_for()
        if seconds <= get_settings().lease:
            return ""
        return (
            f"for {seconds:.0f} s the database could be reached only on a former primary or in "
            "another cluster. The next process accepts it: check that this is the right one"
        )

    # From other threads

    def _may_start(self) -> bool:
        """Not what others may have by now, nor more than a crash should repeat."""
        return (
            self._heartbeat.trusted()
            and not self._primary.refused
            and self._completer.backlog < MAX_UNWRITTEN_OUTCOMES
            and self._events.backlog < MAX_EVENT_BACKLOG
        )

    def _done(self, accepted: list[tuple[Outcome, str]], fenced: list[Outcome]) -> None:
        self._statistics.add(accepted)
        self._events.put(accepted)
        for outcome in fenced:
            logger.warning(
                "%s was rescued or cancelled while it ran; its outcome is dropped.", outcome.task
            )
        self._in_flight_tasks.settle(fenced)
        self._in_flight_tasks.settle(outcome for outcome, _ in accepted)
        if not self._in_flight_tasks:
            self._isolation.running_exclusive = False
            self._waker.wake()

    def _rescued(self, outcomes: list[Outcome]) -> None:
        """What was taken from others: told of here, since they cannot."""
        ended = [(outcome, str(outcome.status)) for outcome in outcomes]
        self._statistics.add(ended)
        self._events.put(ended)

    def _beaten(self, cancelled: set[int]) -> None:
        for current in self._pool.running():
            if current.task.pk in cancelled:
                current.cancel_requested = True
        if self._in_flight_tasks:
            self._in_flight_tasks.needs_reconciling = True
        if self._in_flight_tasks or self._heartbeat.declared_dead:
            self._waker.wake()

    # Pauses

    def _is_over(self, end: float | None, found: bool) -> bool:
        if end is not None and time.monotonic() >= end:
            self._all_done = True
            return True
        if self._has_to_be_replaced():
            return True
        if found or self._in_flight_tasks:
            return False
        if self._max_tasks is not None and self._in_flight_tasks.claimed_total >= self._max_tasks:
            return True
        self._all_done = self._drain and self._failures == 0 and self._is_drained()
        return self._all_done

    def _has_to_be_replaced(self) -> bool:
        """
        A thread cannot be killed, only its process: under a supervisor at once, alone when none
        of the threads is of use any more. Nor can a process go on without one of its parts.
        """
        why = self._astray
        if not self._heartbeat.trusted():  # Or the newer server is alive, and worth waiting for.
            why = why or self._on_stale_server()
        if why:
            self._end(why)
            return True
        parts = (self._pool, self._completer, self._events, self._maintenance, self._heartbeat)
        lost = [type(part).__name__ for part in parts if not part.is_alive()]
        stuck = self._pool.stuck
        enough = 1 if self._is_supervised else self._pool.threads
        if stuck < enough and not lost:
            return False
        what = f"its {' and '.join(lost)} has ended" if lost else f"{stuck} threads are stuck"
        self._end(what, is_broken=bool(lost))
        return True

    def _end(self, why: str, *, is_broken: bool = False) -> None:
        logger.error("This process ends, to be replaced: %s.", why)
        self._to_be_replaced, self._is_broken = True, is_broken
        self._stop_by = time.monotonic() + get_settings().grace_period

    def _is_drained(self) -> bool:
        """Nothing is due; nor is anything in the hands of a worker that has gone silent."""
        try:
            with watched(self._alias):
                abandoned = Task.objects.abandoned()
                if self.queues is not None:
                    abandoned = abandoned.filter(queue__in=self.queues)
                # In this order: what is taken back in between is seen where it went.
                return not abandoned.exists() and not self._claimer.has_claimable()
        except Error as error:
            self._in_flight_tasks.needs_reconciling = True
            self._failed("The database does not answer", error)
            reset_connection(self._alias)
            return False

    def _pause(self, end: float | None) -> float:
        now = time.monotonic()
        if self._failures:
            return self._outage_pause()
        if not self._heartbeat.trusted():
            return 0.1
        until = [self._poll_again_at if self._poll_again_at > now else now + self._sleep]
        if end is not None:
            until.append(end)
        if self._next_due is not None:
            until.append(self._next_due + 0.001)
        if (stale_at := self._claimer.stale_at()) is not None:
            until.append(stale_at)
        return max(min(until) - now, 0.001)

    def _failed(self, what: str, error: Error) -> None:
        self._failures += 1
        if isinstance(error, DataError | IntegrityError):
            what = "The database answers, but refuses a statement"
        if is_worth_logging(self._failures):
            logger.warning("%s: %s", what, str(error).strip())

    def _outage_pause(self) -> float:
        return growing_pause(self._failures, first=0.2, longest=5.0)
