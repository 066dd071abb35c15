"""The loop: look what there is, claim, hand out, sleep."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from django.db import DataError, Error, IntegrityError

from bgtask import registry
from bgtask.conf import get_settings, require_autocommit
from bgtask.models import Task, Worker
from bgtask.models.outcome import Outcome
from bgtask.models.transactions import TransactionsRefused, check_transactions
from bgtask.runner.alarm import Alarm
from bgtask.runner.announcer import Announcer
from bgtask.runner.care import mend
from bgtask.runner.child import LEFT, NO_WORKER, OVER, REFUSED
from bgtask.runner.claimer import Claimer
from bgtask.runner.completer import Completer
from bgtask.runner.connecting import prepared_connections
from bgtask.runner.hand import Hand
from bgtask.runner.heartbeat import Heartbeat
from bgtask.runner.listeners import wakeup_for
from bgtask.runner.maintenance import Maintenance
from bgtask.runner.pool import Pool
from bgtask.runner.primary import Primary
from bgtask.runner.statistics import Statistics
from bgtask.runner.suspects import Suspects
from bgtask.runner.watchdog import Watchdog, limit_waiting, watched

logger = logging.getLogger("bgtask")

BREATH = 0.003  # Seconds after a look in vain in which nothing wakes it to look again.
BACKLOG = 500  # Unwritten outcomes at which nothing more is started: what a crash may repeat.
UNSAID = 10_000  # Outcomes to be announced at which nothing more is started: receivers are slow.
SILENCE = 2.0  # Seconds that a statement is given at the least; else a quarter of the lease.


class Runner:
    """
    Claims tasks and has them executed, until told to stop.

    ``queues`` None serves all. ``sleep`` is the longest pause, in seconds, when nothing was found;
    ``duration``, if not 0, the seconds after which it stops; ``drain`` stops it when nothing is
    due, ``max_tasks`` after so many. ``tell`` is how a supervisor is told that this process lives,
    and why it leaves; under one, a process with a stuck thread ends to be replaced.
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
        tell: Callable[[object], None] | None = None,
    ) -> None:
        self.queues = tuple(queues) if queues else None
        self._sleep = sleep
        self._duration = duration
        self._drain = drain
        self._max_tasks = max_tasks
        self._is_supervised = tell is not None
        self._tell = tell or (lambda word: None)
        self._alias = Task.objects.all().db
        require_autocommit(self._alias)
        self._alarm = Alarm()
        self._stopping = False
        self._stop_by: float | None = None  # When patience with running tasks ends.
        self._forced = False
        self._to_be_replaced = False
        self._astray = ""  # Why this process seems to be connected to two servers.
        self._declared_dead_at: float | None = None
        self._is_broken = False
        self._is_excused = False
        self._all_done = False
        limit_waiting(self._alias)
        self._primary = Primary(self._alias)
        self._watchdog = Watchdog(max(get_settings().lease / 4, SILENCE))
        self._statistics = Statistics()
        self._announcer = Announcer()
        self._completer = Completer(self._done, lambda: self._pool.is_idle)
        self._pool = Pool(
            threads,
            may_start=self._may_start,
            on_end=self._completer.put,
            on_hungry=self._alarm.ring,
        )
        self._maintenance = Maintenance(
            may_judge=lambda: self._heartbeat.steady(),
            is_idle=lambda: not self._hand,
            on_rescued=self._rescued,
        )
        self._hand = Hand()
        self._suspects = Suspects()
        self._claimer = Claimer(
            self.queues,
            self._hand,
            self._pool,
            self._suspects,
            news=lambda: self._wakeup.news(),
            on_look=self._looked,
        )
        self._look_again = 0.0
        self._not_before = 0.0
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
        self._wakeup = wakeup_for(self._alarm, self._alias, self.queues)
        self._watchdog.start()
        try:
            has_reported = self._report_for_duty()
        except TransactionsRefused:
            self._watchdog.stop()
            self._tell(REFUSED)
            raise
        if not has_reported:
            self._watchdog.stop()
            if why := self._astray or self._on_stale_server():
                self._end(why)
                return False
            self._tell(LEFT)
            return True
        for part in (self._pool, self._completer, self._announcer, self._maintenance):
            part.start()
        logger.info(
            "Worker %s takes tasks from %s.",
            self.worker,
            "all queues" if self.queues is None else ", ".join(self.queues),
        )
        try:
            while not self._stopping:
                self._wakeup.ready()
                with watched(self._alias):
                    found = self._turn()
                if self._is_over(end, found):
                    break
                if not found:
                    self._wakeup.sleep(self._pause(end))
        except BaseException:
            self._is_broken = True
            self._stop_by = time.monotonic() + get_settings().grace_period
            raise
        finally:
            clean = self._leave()
            self._watchdog.stop()
            self._wakeup.close()
            self._alarm.close()
        logger.info("Worker %s has left.", self.worker)
        clean &= not self._to_be_replaced
        if clean:
            self._tell(OVER if self._all_done else LEFT)
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
        self._alarm.ring()

    def _report_for_duty(self) -> bool:
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
                self._tell(NO_WORKER)
                mend(self._alias)
                self._alarm.sleep(self._outage_pause())
                continue
            self._statistics.set_clock(self.worker.started_at)
            self._heartbeat = Heartbeat(
                self.worker,
                self._statistics,
                started,
                holds=lambda: bool(self._hand),
                stuck=lambda: self._pool.stuck,
                pulse=self._tell,
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
                Task.objects.unhold_known(registry.names())
        except Error as error:
            self._failed("Tasks of unknown names are let go later", error)
            mend(self._alias)

    def _leave(self) -> bool:
        """Give back what was not started, wait for the rest; the heartbeat stops last."""
        clean = True
        unstarted = self._pool.withdraw()
        self._pool.ask_to_stop()
        try:
            with watched(self._alias):
                self.worker.retire()
                self._hand.release(unstarted)
        except Error as error:
            mend(self._alias)
            self._failed("Unstarted tasks could not be released", error)
            clean = False
        while not self._pool.close(time.monotonic() + 0.2):
            self._pool.ask_to_stop()  # Also what a thread had taken just before, and starts now.
            if self._stopping:
                self._excuse()
            if self._forced or (self._stop_by is not None and time.monotonic() > self._stop_by):
                logger.error(
                    "Leaving %d tasks that are still running; they will be rescued: %s",
                    len(self._pool.running()),
                    ", ".join(str(current.task) for current in self._pool.running()[:10]),
                )
                self._excuse()
                clean = False
                break
        clean &= self._completer.stop(1.0 if self._forced else get_settings().grace_period)
        self._maintenance.stop()
        announced = self._announcer.stop(1.0 if self._forced else get_settings().grace_period)
        self._heartbeat.stop()
        try:
            with watched(self._alias):
                self._heartbeat.beat()
                # Only with nothing in its hands: else others would take what is still running.
                if clean:
                    self.worker.leave()
        except Error as error:
            mend(self._alias)
            self._failed("The worker could not sign off", error)
            clean = False
        return clean and announced

    def _excuse(self) -> None:
        """
        What is left running is no suspect where this process was told to stop, or ran out of
        patience. Who broke it is to be found, and whoever brings it down while it waits.
        """
        if self._is_excused or self._is_broken:
            return
        self._is_excused = True  # Tried once: a database that is away must not delay the stop.
        try:
            with watched(self._alias):
                self.worker.note_stop()
        except Error as error:
            mend(self._alias)
            self._failed("That the worker was told to stop could not be noted", error)

    # One turn

    def _turn(self) -> bool:
        """Do what there is to do; True if it is worth looking again at once."""
        try:
            if self._heartbeat.declared_dead and not self._begin_anew():
                return False
            self._claimer.give_back_stale()
            if self._hand.doubtful:
                self._hand.reconcile(self.worker, self._pool.running())
                if not self._hand:  # A suspect that was taken back is not waited for.
                    self._suspects.alone = False
            if not self._heartbeat.trusted():
                return False
            if self._primary.refused:
                self._primary.try_again()
            wanted = self._wanted()
            if wanted and time.monotonic() < self._not_before:
                self._look_again = self._not_before
            if time.monotonic() < (self._not_before if wanted else self._look_again):
                return False
            claimed = self._claimer.claim(self.worker, wanted)
        except Error as error:
            # The reply of a claim may be lost: what the database holds for us is to be compared.
            self._hand.doubtful = True
            self._failed("The database does not answer", error)
            mend(self._alias)
            return False
        self._failures = 0
        if not claimed:
            self._not_before = time.monotonic() + BREATH
        return claimed > 0

    def _wanted(self) -> int:
        if self._suspects.alone or self._completer.backlog > BACKLOG:
            return 0
        wanted = self._pool.wanted()
        if self._max_tasks is not None:
            wanted = min(wanted, self._max_tasks - self._hand.taken)
        return wanted

    def _looked(self, next_due: float | None) -> None:
        now = time.monotonic()
        self._look_again = now + self._sleep
        self._next_due = None if next_due is None else now + next_due

    def _begin_anew(self) -> bool:
        """
        Declared dead: others have what was not started; what runs will be fenced off.

        Return False if this process must be replaced instead of registering again. Nobody may
        declare the new worker dead before its lease is over. If a beat doesn't find it any
        sooner, the beat went to another server.
        """
        self._hand.forget(self._pool.withdraw())
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
        return self._report_for_duty()

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
            and self._completer.backlog < BACKLOG
            and self._announcer.backlog < UNSAID
        )

    def _done(self, accepted: list[tuple[Outcome, str]], fenced: list[Outcome]) -> None:
        self._statistics.add(accepted)
        self._announcer.put(accepted)
        for outcome in fenced:
            logger.warning(
                "%s was rescued or cancelled while it ran; its outcome is dropped.", outcome.task
            )
        self._hand.put_down(fenced)
        self._hand.put_down(outcome for outcome, _ in accepted)
        if not self._hand:
            self._suspects.alone = False
            self._alarm.ring()

    def _rescued(self, outcomes: list[Outcome]) -> None:
        """What was taken from others: told of here, since they cannot."""
        ended = [(outcome, str(outcome.status)) for outcome in outcomes]
        self._statistics.add(ended)
        self._announcer.put(ended)

    def _beaten(self, cancelled: set[int]) -> None:
        for current in self._pool.running():
            if current.task.pk in cancelled:
                current.cancel_requested = True
        if self._hand:
            self._hand.doubtful = True
        if self._hand or self._heartbeat.declared_dead:
            self._alarm.ring()

    # Pauses

    def _is_over(self, end: float | None, found: bool) -> bool:
        if end is not None and time.monotonic() >= end:
            self._all_done = True
            return True
        if self._has_to_be_replaced():
            return True
        if found or self._hand:
            return False
        if self._max_tasks is not None and self._hand.taken >= self._max_tasks:
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
        parts = (self._pool, self._completer, self._announcer, self._maintenance, self._heartbeat)
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
                return not abandoned.exists() and not self._claimer.sees_anything()
        except Error as error:
            self._hand.doubtful = True
            self._failed("The database does not answer", error)
            mend(self._alias)
            return False

    def _pause(self, end: float | None) -> float:
        now = time.monotonic()
        if self._failures:
            return self._outage_pause()
        if not self._heartbeat.trusted():
            return 0.1
        until = [self._look_again if self._look_again > now else now + self._sleep]
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
        if self._failures in (1, 10) or self._failures % 100 == 0:
            logger.warning("%s: %s", what, str(error).strip())

    def _outage_pause(self) -> float:
        return float(min(0.1 * 2 ** min(self._failures, 6), 5.0))
