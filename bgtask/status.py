"""Define the statuses of a task, and the ways from one to another.

                        hold                  cancel (from READY, SCHEDULED, HELD)
            HELD ◀──────────────┐   ┌────────────────────────────▶ CANCELLED
             │ ▲ unhold         │   │                                  ▲
             │ └ set aside┐     │   │     cancelled while it ran       │
             ▼            │     │   │                                  │
  enqueue  ┌─────────┐   claim ┌┴───┴────┐        succeed              │
  ───────▶ │  READY  │ ──────▶ │ RUNNING │ ───────────────▶ SUCCESSFUL │
           └─────────┘ ◀────── └─────────┘          fail               │
             ▲     ▲   release   │     │  └────────────────▶ FAILED    │
     promote │     └─────────────┤     └───────────────────────────────┘
           ┌─┴─────────┐ rescue  │
  ───────▶ │ SCHEDULED │ ◀───────┘ retry, rescue
  enqueue  └───────────┘

  requeue: SUCCESSFUL, FAILED, CANCELLED → READY, or SCHEDULED to spread the tasks over some time

A READY task is always due, so that a claim never reads the row of a task that is due later.
A SCHEDULED task that has attempts behind it waits for its next attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import MappingProxyType

from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = [
    "FINISHED",
    "LIVE",
    "WAITING",
    "AttemptOutcome",
    "HeldFor",
    "HeldWhile",
    "Status",
    "WorkerState",
]


class Status(models.TextChoices):
    """The status of a task."""

    SCHEDULED = "SCHEDULED", _("Scheduled")
    READY = "READY", _("Ready")
    RUNNING = "RUNNING", _("Running")
    HELD = "HELD", _("Held")
    SUCCESSFUL = "SUCCESSFUL", _("Successful")
    FAILED = "FAILED", _("Failed")
    CANCELLED = "CANCELLED", _("Cancelled")


class HeldFor(models.TextChoices):
    """The reason why a task is HELD."""

    OPERATOR = "operator", _("held by an operator")
    TYPE = "type", _("task type on hold")
    UNKNOWN = "unknown", _("unknown task: not registered on any worker")


class HeldWhile(models.TextChoices):
    """How long a task holds its unique key."""

    RUNNING = "running", _("until it is finished")
    WAITING = "waiting", _("until a worker takes it")


class WorkerState(models.TextChoices):
    """The state of a worker. A worker never leaves the state DEAD."""

    ALIVE = "alive", _("alive")
    STOPPING = "stopping", _("stopping")
    DEAD = "dead", _("dead")


class AttemptOutcome(models.TextChoices):
    """How an attempt ended that did not succeed."""

    FAILED = "failed", _("failed")
    LOST = "lost", _("lost with its worker")
    INTERRUPTED = "interrupted", _("interrupted by the stop of its worker")
    TIMED_OUT = "timed_out", _("ran longer than allowed")
    CANCELLED = "cancelled", _("cancelled")


FINISHED = frozenset({Status.SUCCESSFUL, Status.FAILED, Status.CANCELLED})
LIVE = frozenset(Status) - FINISHED
WAITING = frozenset({Status.SCHEDULED, Status.READY, Status.HELD})

# Every transition: action → (from, to). Nothing else may change a status.
TRANSITIONS: Mapping[str, tuple[Set[Status], Set[Status]]] = MappingProxyType(
    {
        "promote": ({Status.SCHEDULED}, {Status.READY}),
        "claim": ({Status.READY}, {Status.RUNNING}),
        "release": ({Status.RUNNING}, {Status.READY, Status.CANCELLED}),
        "set_aside": ({Status.RUNNING}, {Status.HELD, Status.CANCELLED}),
        "succeed": ({Status.RUNNING}, {Status.SUCCESSFUL}),
        "fail": ({Status.RUNNING}, {Status.FAILED}),
        "retry": ({Status.RUNNING}, {Status.SCHEDULED, Status.CANCELLED}),
        "rescue": (
            {Status.RUNNING},
            {Status.READY, Status.SCHEDULED, Status.FAILED, Status.CANCELLED},
        ),
        "hold": ({Status.READY, Status.SCHEDULED}, {Status.HELD}),
        "unhold": ({Status.HELD}, {Status.READY, Status.SCHEDULED}),
        "cancel": (
            {Status.SCHEDULED, Status.READY, Status.HELD, Status.RUNNING},
            {Status.CANCELLED},
        ),
        "requeue": (FINISHED, {Status.READY, Status.SCHEDULED}),
    }
)
