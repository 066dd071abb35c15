from __future__ import annotations

import os
import secrets
import socket
from collections import Counter
from collections.abc import Sequence

from django.db import models
from django.utils.translation import gettext_lazy as _

from bgtask.conf import get_settings
from bgtask.db import DatabaseNow
from bgtask.db.fields import UnicodeCharField, UnicodeTextField
from bgtask.db.routing import QueueManager
from bgtask.models.deletion import delete
from bgtask.status import WorkerState

ID_MAX = 2**53 - 1  # The highest integer that JSON carries safely.


class WorkerQuerySet(models.QuerySet["Worker"]):
    def living(self) -> WorkerQuerySet:
        """Return the workers that are not declared dead, whether silent or not."""
        return self.exclude(state=WorkerState.DEAD)

    def alive(self) -> WorkerQuerySet:
        """Return the workers whose lease is valid, so that they keep their tasks."""
        return self.living().filter(lease_expires_at__gt=DatabaseNow())

    def silent(self) -> WorkerQuerySet:
        """Return the workers whose lease has expired and that are not yet declared dead."""
        return self.living().filter(lease_expires_at__lte=DatabaseNow())

    def record_stop(self) -> int:
        """
        Record that these workers were told to stop; return how many.

        Tasks that they leave running are then interrupted, and not suspected of a crash. This
        method stops no process. The worker that was told to stop calls it, or the process that
        has just killed that worker.
        """
        return self.living().filter(stopped_at=None).update(stopped_at=DatabaseNow())

    def declare_dead(self) -> int:
        """
        Declare these workers dead; return how many.

        A worker never leaves the DEAD state. Its tasks may be rescued, and its writes are refused.
        """
        return self.living().update(state=WorkerState.DEAD)

    def prune(self, age: float, kept: Counter[str] | None = None) -> int:
        """
        Delete dead workers that hold no task and were silent for ``age`` seconds.

        Return how many. Add to ``kept`` how many could not be deleted, by the table that refers to
        them.
        """
        from bgtask.models.task import Task

        total = last = 0
        dead = self.filter(state=WorkerState.DEAD, heartbeat_at__lt=DatabaseNow(-age), tasks=None)
        while ids := list(
            dead.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:1000]
        ):
            last = ids[-1]
            deletion = delete(self.filter(pk__in=ids), others=[Task])
            total += deletion.number
            if kept is not None:
                kept.update(deletion.kept.values())
        return total


class Worker(models.Model):
    """One start of a worker process. The row is never reused."""

    host = UnicodeCharField(_("host"), max_length=255)
    pid = models.PositiveIntegerField(_("process id"))
    label = UnicodeCharField(_("label"), max_length=255)
    queues = UnicodeTextField(_("queues"), blank=True, help_text=_("Comma-separated; empty: all."))
    threads = models.PositiveIntegerField(_("threads"), default=1)
    # Threads that still run a task that was rescued from them. Such a thread runs no other task
    # until that task ends.
    stuck = models.PositiveIntegerField(_("stuck threads"), default=0, db_default=0)
    started_at = models.DateTimeField(_("started at"))
    heartbeat_at = models.DateTimeField(_("last heartbeat"))
    lease_expires_at = models.DateTimeField(_("lease expires at"))
    state = models.CharField(
        _("state"), max_length=10, choices=WorkerState, default=WorkerState.ALIVE
    )
    # Kept after the worker is dead. It tells a requested stop from a crash, so that the tasks left
    # running are not suspected.
    stopped_at = models.DateTimeField(_("told to stop at"), null=True, blank=True)

    objects = QueueManager.from_queryset(WorkerQuerySet)()

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        default_permissions = ("view",)
        indexes = [models.Index(fields=["state", "lease_expires_at"], name="bgtask_worker_lease")]

    def __str__(self) -> str:
        return self.label

    @classmethod
    def register(cls, queues: Sequence[str] = (), threads: int = 1) -> Worker:
        """
        Create a new row, with a lease that begins now, and return the worker.

        Draw the id at random. A database that loses its newest commits loses the newest ids of a
        sequence as well. A sequence would give these ids out again while the first owners still
        run.
        """
        host, pid = cls.this_host(), os.getpid()
        worker: Worker = cls.objects.create(
            pk=1 + secrets.randbelow(ID_MAX),
            host=host,
            pid=pid,
            label=f"{host}:{pid}",
            queues=",".join(queues),
            threads=threads,
            started_at=DatabaseNow(),
            heartbeat_at=DatabaseNow(),
            lease_expires_at=DatabaseNow(get_settings().lease),
        )
        worker.refresh_from_db()
        return worker

    @staticmethod
    def this_host() -> str:
        return socket.gethostname()[:200]

    def beat(self, stuck: int = 0) -> bool:
        """Renew the lease. Return False if this worker was declared dead."""
        return bool(
            self._living().update(
                heartbeat_at=DatabaseNow(),
                lease_expires_at=DatabaseNow(get_settings().lease),
                stuck=stuck,
            )
        )

    def mark_stopping(self) -> bool:
        """
        Mark this worker as stopping. Return False if it was declared dead.

        The worker claims no more tasks. Its running tasks may still end, since it keeps the lease.
        """
        return bool(self._living().update(state=WorkerState.STOPPING))

    def record_stop(self) -> bool:
        """Record that this worker was told to stop, or stops of its own accord."""
        return bool(Worker.objects.filter(pk=self.pk).record_stop())

    def deregister(self) -> bool:
        """
        Declare this worker dead. Return False if it already was.

        No task may be running any more, or that task will run again on another worker.
        """
        return bool(Worker.objects.filter(pk=self.pk).declare_dead())

    def _living(self) -> WorkerQuerySet:
        return Worker.objects.filter(pk=self.pk).living()
