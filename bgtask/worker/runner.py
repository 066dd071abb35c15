"""
Run the main loop of a worker: poll, claim, submit tasks to the pool, sleep.

The module is long because registering, polling, stopping and leaving share the state of one
object. Each of these may begin during any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from django.db import DataError, Error, IntegrityError

from bgtask import clock, registry
from bgtask.conf import get_settings, require_autocommit
from bgtask.db.routing import TransactionsRefused, check_transactions, queue_alias
from bgtask.lifecycle.attempts import Outcome
from bgtask.lifecycle.promote import unhold_known
from bgtask.loggers import get_logger, is_worth_logging
from bgtask.models import Task, Worker
from bgtask.worker.child import COMPLETED, EXITING, NO_WORKER, REFUSED
from bgtask.worker.claim_order import IsolationGate
from bgtask.worker.claimer import Claimer
from bgtask.worker.completer import Completer
from bgtask.worker.connections import prepared_connections, reset_connection
from bgtask.worker.events import EventDispatcher
from bgtask.worker.heartbeat import Heartbeat
from bgtask.worker.in_flight import InFlightTasks
from bgtask.worker.listeners import Waker, listener_for
from bgtask.worker.maintenance import Maintenance
from bgtask.worker.pool import Pool
from bgtask.worker.primary import Primary
from bgtask.worker.service import growing_pause
from bgtask.worker.statistics import Statistics
from bgtask.worker.watchdog import Watchdog, limit_waiting, watched

logger = get_logger(__name__)

# Minimum seconds from a poll that found nothing until the next poll.
MIN_POLL_INTERVAL_SECONDS = 0.003
# With so many unwritten outcomes, no more tasks are started. A crash would repeat these attempts.
MAX_UNWRITTEN_OUTCOMES = 500
# With so many outcomes to dispatch, no more tasks are started, because the receivers are slow.
MAX_EVENT_BACKLOG = 10_000
# A statement may take a quarter of the lease, but always at least so many seconds.
MIN_STATEMENT_SECONDS = 2.0


class Runner:
    """
    Claim tasks and run them in a pool of threads until the worker is stopped.

    If ``queues`` is None, the worker serves all queues. ``sleep`` is the longest pause in seconds
    after a poll that found nothing. If ``duration`` isn't 0, the worker stops after so many
    seconds. With ``drain`` it stops when nothing is due, with ``max_tasks`` after so many tasks.

    ``report`` tells a supervisor that this process is alive, and why it ends. Under a supervisor,
    a process with a stuck thread ends, so that the supervisor replaces it.

    ``success_level`` is the level at which each successful attempt is logged.
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
        success_level: int = logging.DEBUG,
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
        self._stop_by: float | None = None  # When to stop waiting for running tasks.
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
        self._events = EventDispatcher(success_level)
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
            label=lambda: self.worker.label,
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
        Run until stopped; return False if a task was left running or an outcome unwritten.

        Also return False if this process must be replaced. Raise TransactionsRefused if the
        database allows no transactions.
        """
        with prepared_connections(), self._primary.comparing():
            return self._run()

    def _run(self) -> bool:
        end = clock.monotonic() + self._duration if self._duration > 0 else None
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
            self._stop_by = clock.monotonic() + get_settings().grace_period
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
        Claim nothing more, and give running tasks GRACE_PERIOD seconds to finish.

        A second call ends the wait at once. Both calls are safe in a signal handler.
        """
        if self._stopping:
            self._forced = True
        else:
            self._stop_by = clock.monotonic() + get_settings().grace_period
        self._stopping = True
        self._waker.wake()

    def _register(self) -> bool:
        """
        Register the worker and start its heartbeat; retry until the database answers.

        Return False if this process was stopped meanwhile, or must be replaced.
        """
        while not self._stopping and not self._on_stale_server():
            started = clock.monotonic()
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
        """
        Unhold the tasks whose names were unknown before and are known to this process.

        This is done before the first claim. The tasks that waited for this version of the code
        should not also wait for the maintenance job.
        """
        try:
            with watched(self._alias):
                unhold_known(registry.knows)
        except Error as error:
            self._failed("Tasks of unknown names are let go later", error)
            reset_connection(self._alias)

    def _leave(self) -> bool:
        """
        Release unstarted tasks, wait for running ones and stop all threads, the heartbeat last.

        Return True if all outcomes were written and dispatched, and nothing is still running.
        """
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
        while not self._pool.close(clock.monotonic() + 0.2):
            # A thread may have taken its task just before withdraw() and start it only now.
            self._pool.ask_to_stop()
            if self._stopping:
                self._record_stop()
            if self._forced or (self._stop_by is not None and clock.monotonic() > self._stop_by):
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
        dispatched = self._events.stop(1.0 if self._forced else get_settings().grace_period)
        self._heartbeat.stop()
        try:
            with watched(self._alias):
                self._heartbeat.beat()
                # Deregister only if no task is in flight. Otherwise other workers would rescue
                # tasks that are still running.
                if clean:
                    self.worker.deregister()
        except Error as error:
            reset_connection(self._alias)
            self._failed("The worker could not sign off", error)
            clean = False
        return clean and dispatched

    def _record_stop(self) -> None:
        """
        Record that this worker was asked to stop, or that its wait for running tasks is over.

        The tasks that it leaves are then interrupted, rather than suspected of a crash. Skip this
        if the process is broken, because one of the running tasks may have broken it. A process
        that ends by itself records the stop only after the wait. A task that makes it crash during
        the wait is suspected as well.
        """
        if self._is_stop_recorded or self._is_broken:
            return
        # Try this only once: a database that doesn't answer must not delay the stop.
        self._is_stop_recorded = True
        try:
            with watched(self._alias):
                self.worker.record_stop()
        except Error as error:
            reset_connection(self._alias)
            self._failed("Could not record that the worker was asked to stop", error)

    # One run of the loop

    def _run_once(self) -> bool:
        """
        Reconcile if needed, then poll and claim.

        Return True if tasks were claimed, so that it is worth polling again at once.
        """
        try:
            if self._heartbeat.declared_dead and not self._reregister():
                return False
            self._claimer.release_stale()
            if self._in_flight_tasks.needs_reconciling:
                self._in_flight_tasks.reconcile(self.worker, self._pool.running())
                # A suspect that was rescued is no longer in flight, so don't wait for its end.
                if not self._in_flight_tasks:
                    self._isolation.running_exclusive = False
            if not self._heartbeat.trusted():
                return False
            if self._primary.refused:
                self._primary.try_again()
            wanted = self._wanted()
            if wanted and clock.monotonic() < self._poll_not_before:
                self._poll_again_at = self._poll_not_before
            if clock.monotonic() < (self._poll_not_before if wanted else self._poll_again_at):
                return False
            claimed = self._claimer.claim(self.worker, wanted)
        except Error as error:
            # The reply of a claim may be lost. Compare the tasks that the database holds for this
            # worker with those in memory.
            self._in_flight_tasks.needs_reconciling = True
            self._failed("The database does not answer", error)
            reset_connection(self._alias)
            return False
        self._failures = 0
        if not claimed:
            self._poll_not_before = clock.monotonic() + MIN_POLL_INTERVAL_SECONDS
        return claimed > 0

    def _wanted(self) -> int:
        if self._isolation.running_exclusive or self._completer.backlog > MAX_UNWRITTEN_OUTCOMES:
            return 0
        wanted = self._pool.wanted()
        if self._max_tasks is not None:
            wanted = min(wanted, self._max_tasks - self._in_flight_tasks.claimed_total)
        return wanted

    def _polled(self, next_due: float | None) -> None:
        now = clock.monotonic()
        self._poll_again_at = now + self._sleep
        self._next_due = None if next_due is None else now + next_due

    def _reregister(self) -> bool:
        """
        Register a new worker after this one was declared dead.

        Drop the unstarted tasks, because other workers have rescued them. The outcomes of running
        tasks will be refused, because their tokens no longer match.

        Return False if this process must be replaced instead of registering again. Nobody may
        declare the new worker dead before its lease is over. If a beat fails to find its row
        sooner than that, the beat went to another server.
        """
        self._in_flight_tasks.drop(self._pool.withdraw())
        self._heartbeat.stop()
        now, before = clock.monotonic(), self._declared_dead_at
        self._declared_dead_at = now
        if before is not None and now < before + get_settings().lease:
            self._astray = (
                f"worker {self.worker} was declared dead {now - before:.1f} s after the one "
                "before, sooner than its lease ends. Its threads may be connected to two "
                "servers: check that the database's host names lead to one primary only"
            )
            return False
        logger.error("Worker %s was declared dead. It registers again.", self.worker)
        return self._register()

    def _on_stale_server(self) -> str:
        """
        Return why this process gives up, or "" if it goes on.

        It gives up if, for longer than a lease, it could reach only a former primary or another
        cluster. That server may be the right one. But only a new process accepts it, because this
        one has seen a different server before.
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
        """
        Return whether a thread may start a claimed task now.

        Nothing starts when other workers may have rescued the tasks, or when the connection leads
        to the wrong server. Nothing starts while a crash would repeat too many attempts, or while
        the receivers of signals are too slow.
        """
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
        """Count the rescued tasks and dispatch their outcomes, because their workers are dead."""
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
        if end is not None and clock.monotonic() >= end:
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
        Return whether this process must end, and prepare its end.

        A stuck thread can't be killed, only its process. Under a supervisor one stuck thread is
        enough to end the process. Without one, it ends when all threads are stuck. A process also
        ends if one of its service threads has ended, because it can't work without that thread.
        """
        why = self._astray
        # While the heartbeat is trusted, the newer server answers, so wait for it.
        if not self._heartbeat.trusted():
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
        logger.error("This process stops: %s.", why)
        self._to_be_replaced, self._is_broken = True, is_broken
        self._stop_by = clock.monotonic() + get_settings().grace_period

    def _is_drained(self) -> bool:
        """Return whether nothing is due and no dead or silent worker holds a task."""
        try:
            with watched(self._alias):
                abandoned = Task.objects.abandoned()
                if self.queues is not None:
                    abandoned = abandoned.filter(queue__in=self.queues)
                # Query in this order: a task that is rescued between the two queries is then
                # seen by the second.
                return not abandoned.exists() and not self._claimer.has_claimable()
        except Error as error:
            self._in_flight_tasks.needs_reconciling = True
            self._failed("The database does not answer", error)
            reset_connection(self._alias)
            return False

    def _pause(self, end: float | None) -> float:
        now = clock.monotonic()
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
