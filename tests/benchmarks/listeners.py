"""An app of the workers under test: one receiver on each signal, as a project would have."""

from __future__ import annotations

from bgtask import signals


def listen(sender, **facts):
    """Does nothing: what is measured is the telling."""


for _signal in (
    signals.task_started,
    signals.task_succeeded,
    signals.task_failed,
    signals.task_retried,
):
    _signal.connect(listen)
