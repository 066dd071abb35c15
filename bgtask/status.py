"""The life of a task.

                        hold                  cancel (from READY, SCHEDULED, HELD)
            HELD ◀──────────────┐   ┌────────────────────────────▶ CANCELLED
             │ ▲ unhold         │   │                                  ▲
             │ └── park ──┐     │   │     cancelled while it ran       │
             ▼            │     │   │                                  │
  enqueue  ┌─────────┐   claim ┌┴───┴────┐        succeed              │
  ───────▶ │  READY  │ ──────▶ │ RUNNING │ ───────────────▶ SUCCESSFUL │
           └─────────┘ ◀────── └─────────┘          fail               │
             ▲     ▲   release   │     │  └────────────────▶ FAILED    │
     promote │     └─────────────┤     └───────────────────────────────┘
           ┌─┴─────────┐ rescue  │
  ───────▶ │ SCHEDULED │ ◀───────┘ retry, rescue
  enqueue  └───────────┘

  requeue: SUCCESSFUL, FAILED, CANCELLED → READY, or SCHEDULED where it is spread over some time

A READY task is due by construction, so that a claim never reads a future row.
A SCHEDULED one with attempts behind it is waiting for its next attempt.
"""

from __future__ import annotations

from types import MappingProxyType

from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = [
    "FINISHED",
    "LIVE",
    "WAITING",
    "AttemptOutcome",
    "HeldFor",
    "Status",
    "WorkerState",
]


class Status(models.TextChoices):
    """Where a task stands."""

    SCHEDULED = "SCHEDULED", _("Scheduled")
    READY = "READY", _("Ready")
    RUNNING = "RUNNING", _("Running")
    HELD = "HELD", _("Held")
    SUCCESSFUL = "SUCCESSFUL", _("Successful")
    FAILED = "FAILED", _("Failed")
    CANCELLED = "CANCELLED", _("Cancelled")


class HeldFor(models.TextChoices):
    """Why a task is HELD."""

    OPERATOR = "operator", _("held by an operator")
    TYPE = "type", _("task type on hold")
    UNKNOWN = "unknown", _("unknown task: not registered on any worker")


class WorkerState(models.TextChoices):
    """Where a worker stands; dead is final."""

    ALIVE = "alive", _("alive")
    STOPPING = "stopping", _("stopping")
    DEAD = "dead", _("dead")


class AttemptOutcome(models.TextChoices):
    """How an attempt that did not succeed came to its end."""

    FAILED = "failed", _("failed")
    LOST = "lost", _("lost with its worker")
    INTERRUPTED = "interrupted", _("interrupted by the stop of its worker")
    TIMED_OUT = "timed_out", _("ran longer than allowed")
    CANCELLED = "cancelled", _("cancelled")


FINISHED = frozenset({Status.SUCCESSFUL, Status.FAILED, Status.CANCELLED})
LIVE = frozenset(Status) - FINISHED
WAITING = frozenset({Status.SCHEDULED, Status.READY, Status.HELD})

# Every move there is: verb → (from, to). Nothing else may change a status.
MOVES = MappingProxyType(
    {
        "promote": ({Status.SCHEDULED}, {Status.READY}),
        "claim": ({Status.READY}, {Status.RUNNING}),
        "release": ({Status.RUNNING}, {Status.READY, Status.CANCELLED}),
        "park": ({Status.RUNNING}, {Status.HELD, Status.CANCELLED}),
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
        "requeue": (set(FINISHED), {Status.READY, Status.SCHEDULED}),
    }
)
