from __future__ import annotations

import os
import secrets
import socket
from collections import Counter
from collections.abc import Sequence

from django.db import models
from django.utils.translation import gettext_lazy as _

from bgtask.conf import get_settings
from bgtask.dialects import Clock
from bgtask.models.deletion import delete
from bgtask.models.fields import UnicodeCharField, UnicodeTextField
from bgtask.models.manager import QueueManager
from bgtask.status import WorkerState

ID_MAX = 2**53 - 1  # The highest integer that JSON carries safely.


class WorkerQuerySet(models.QuerySet["Worker"]):
    def living(self) -> WorkerQuerySet:
        """Those not declared dead, whether silent or not."""
        return self.exclude(state=WorkerState.DEAD)

    def alive(self) -> WorkerQuerySet:
        """Those heard of recently enough to keep what they claimed."""
        return self.living().filter(lease_expires_at__gt=Clock())

    def silent(self) -> WorkerQuerySet:
        """Those not heard of for longer than their lease, and not yet declared dead."""
        return self.living().filter(lease_expires_at__lte=Clock())

    def note_stop(self) -> int:
        """
        What these leave running is interrupted, and no suspect of their end.

        It stops nobody: for the worker itself, told to stop, or whoever has just killed it.
        """
        return self.living().filter(stopped_at=None).update(stopped_at=Clock())

    def declare_dead(self) -> int:
        """Once dead, a worker stays so: what it holds may be taken, what it writes is refused."""
        return self.living().update(state=WorkerState.DEAD)

    def prune(self, age: float, kept: Counter[str] | None = None) -> int:
        """
        Delete dead workers that have been silent so long and hold nothing; return how many.

        Add to ``kept`` how many could not be deleted, by the table that refers to them.
        """
        from bgtask.models.task import Task

        total = last = 0
        dead = self.filter(state=WorkerState.DEAD, heartbeat_at__lt=Clock(-age), tasks=None)
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
    """One incarnation of a process that runs tasks. Its row is never used again."""

    host = UnicodeCharField(_("host"), max_length=255)
    pid = models.PositiveIntegerField(_("process id"))
    label = UnicodeCharField(_("label"), max_length=255)
    queues = UnicodeTextField(_("queues"), blank=True, help_text=_("Comma-separated; empty: all."))
    threads = models.PositiveIntegerField(_("threads"), default=1)
    # Threads that still run what was taken back from them, and are of no use until they end.
    stuck = models.PositiveIntegerField(_("stuck threads"), default=0, db_default=0)
    started_at = models.DateTimeField(_("started at"))
    heartbeat_at = models.DateTimeField(_("last heartbeat"))
    lease_expires_at = models.DateTimeField(_("lease expires at"))
    state = models.CharField(
        _("state"), max_length=10, choices=WorkerState, default=WorkerState.ALIVE
    )
    # Kept beyond its death: who was told to stop has not been brought down by what it left running.
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
        Report for duty: a new row, with a lease that runs from now.

        Draw its id at random. A database that loses its newest commits loses the newest ids of a
        sequence as well, and would give them out again while the first owners still run.
        """
        host, pid = cls.this_host(), os.getpid()
        worker: Worker = cls.objects.create(
            pk=1 + secrets.randbelow(ID_MAX),
            host=host,
            pid=pid,
            label=f"{host}:{pid}",
            queues=",".join(queues),
            threads=threads,
            started_at=Clock(),
            heartbeat_at=Clock(),
            lease_expires_at=Clock(get_settings().lease),
        )
        worker.refresh_from_db()
        return worker

    @staticmethod
    def this_host() -> str:
        return socket.gethostname()[:200]

    def beat(self, stuck: int = 0) -> bool:
        """Renew the lease; False when this worker was declared dead."""
        return bool(
            self._living().update(
                heartbeat_at=Clock(),
                lease_expires_at=Clock(get_settings().lease),
                stuck=stuck,
            )
        )

    def retire(self) -> bool:
        """Take nothing more; what runs may still end, for the lease is kept."""
        return bool(self._living().update(state=WorkerState.STOPPING))

    def note_stop(self) -> bool:
        """It was told to stop, or leaves of its own accord."""
        return bool(Worker.objects.filter(pk=self.pk).note_stop())

    def leave(self) -> bool:
        """End of duty. Nothing may be running any more, or it will run again elsewhere."""
        return bool(Worker.objects.filter(pk=self.pk).declare_dead())

    def _living(self) -> WorkerQuerySet:
        return Worker.objects.filter(pk=self.pk).living()
