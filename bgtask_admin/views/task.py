"""One task: what happened to it, why, and what can be done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from bgtask.models import Task, TaskHold
from bgtask.status import AttemptOutcome, Status
from bgtask_admin import masking, operations
from bgtask_admin.models import Operation
from bgtask_admin.permissions import VIEW, VIEW_ARGUMENTS, demand
from bgtask_admin.preview import Preview
from bgtask_admin.reading import id_of
from bgtask_admin.selection import Selection
from bgtask_admin.text import between, visible
from bgtask_admin.tracebacks import sections
from bgtask_admin.verbs import ACTIONS, Action, Verb, offered
from bgtask_admin.views.base import back, needs, page, post_only, url_of
from bgtask_admin.views.stepping import lead_on

LATEST = 20
# Done at the press of a button; the others show their options or ask again.
AT_ONCE = (Verb.REQUEUE, Verb.RUN_NOW, Verb.HOLD, Verb.RELEASE, Verb.RESET)


@needs(VIEW)
def task_page(request: HttpRequest, site: AdminSite, task_id: str) -> HttpResponse:
    task = _find(task_id)
    attempts = list(task.history.order_by("-token")[:50])
    may_see = request.user.has_perm(VIEW_ARGUMENTS)
    actions = offered(request.user, task.status)
    return page(
        request,
        site,
        "task.html",
        title=visible(task.verbose_name or task.task_name),
        nav="tasks",
        task=task,
        at_once=[action for action in actions if action.verb in AT_ONCE],
        asking=[action for action in actions if action.verb not in AT_ONCE],
        timeline=timeline(task, attempts),
        attempts=[(attempt, sections(attempt.traceback)) for attempt in attempts],
        last_error=sections(task.last_error) if task.last_error and not attempts else [],
        arguments=masking.arguments_of(task) if may_see else None,
        result=masking.result_of(task) if may_see else None,
        latest=_latest(task),
        log=_log(task),
        operations=_operations(task),
        hold=TaskHold.objects.in_force().filter(task_name=task.task_name).first(),
    )


@post_only
@needs(VIEW)
def task_verb(request: HttpRequest, site: AdminSite, task_id: str, verb: str) -> HttpResponse:
    action = action_of(verb)
    demand(request.user, action.permission)
    task = _find(task_id)
    url = url_of(request)("bgtask_task_change", task.pk)
    form = action.form(request.POST)
    if not form.is_valid():
        messages.error(request, " ".join(str(error) for error in form.errors.values()))
        return back(request, url)
    preview = Preview.take(action, Selection.parse({"id": str(task.pk)}))
    operation = operations.start(preview, form.cleaned_data, user=request.user)
    return lead_on(request, operation, url)


@dataclass(frozen=True)
class Event:
    """One line of a task's life; ``after`` is the time that went by since the line above."""

    at: datetime | None
    what: str
    after: str = ""
    css: str = ""
    more: str = ""
    is_running: bool = False


def timeline(task: Task, attempts: list[Any]) -> list[Event]:
    """From its beginning to now."""
    events: list[tuple[datetime | None, str, str, str]] = [
        (task.enqueued_at, _("Enqueued"), "", "")
    ]
    for attempt in reversed(attempts):
        number, outcome = attempt.number, AttemptOutcome(attempt.outcome)
        if attempt.started_at:
            events.append(
                (
                    attempt.started_at,
                    _("Attempt %d started") % number,
                    "",
                    _("by %s") % visible(attempt.worker) if attempt.worker else "",
                )
            )
        events.append(
            (
                attempt.finished_at,
                _("Attempt %(number)d: %(outcome)s") % {"number": number, "outcome": outcome.label},
                "" if outcome is AttemptOutcome.INTERRUPTED else "bg-bad",
                visible(attempt.error_class),
            )
        )
    if task.status == Status.RUNNING:
        by = _("by %s") % visible(task.last_worker)
        events.append((task.locked_at, _("Attempt %d is running") % task.attempts, "", by))
    elif task.status == Status.SUCCESSFUL and task.finished_at:
        started = _start_of_success(task)
        by = _("by %s") % visible(task.last_worker) if task.last_worker else ""
        if started:
            events.append((started, _("Attempt %d started") % task.attempts, "", by))
        events.append((task.finished_at, _("Successful"), "bg-good", ""))
    elif task.status == Status.CANCELLED:
        events.append((task.finished_at, _("Cancelled"), "", ""))
    elif task.status == Status.FAILED and not attempts:
        events.append((task.finished_at, _("Failed"), "bg-bad", visible(task.error_class)))
    lines = []
    previous: datetime | None = None
    for at, what, css, more in events:
        lines.append(Event(at, what, between(previous, at), css, more))
        previous = at or previous
    if task.status == Status.RUNNING:
        lines[-1] = replace(lines[-1], is_running=True)
    if task.status in (Status.READY, Status.SCHEDULED):
        what = _("Due") if task.status == Status.READY else _("Next attempt due")
        if task.status == Status.SCHEDULED and not task.attempts:
            what = _("Due")
        after = between(previous, task.run_at) if previous and task.run_at > previous else ""
        lines.append(Event(task.run_at, what, after))
    if task.status == Status.HELD:
        lines.append(Event(None, _("Held"), more=str(task.get_held_for_display())))
    return lines


def _start_of_success(task: Task) -> datetime | None:
    if task.finished_at is None or task.duration_ms is None:
        return task.started_at
    return task.finished_at - timedelta(milliseconds=task.duration_ms)


def _latest(task: Task) -> list[Task]:
    """The same function lately, this one among them or not."""
    return list(
        Task.objects.filter(task_name=task.task_name)
        .only("status", "run_at", "finished_at", "duration_ms", "attempts", "error_class")
        .order_by("-pk")[:LATEST]
    )


def _log(task: Task) -> list[LogEntry]:
    kind = ContentType.objects.get_for_model(Task)
    entries = LogEntry.objects.filter(content_type_id=kind.pk, object_id=str(task.pk))
    return list(entries.select_related("user").order_by("-action_time", "-pk")[:30])


def _operations(task: Task) -> list[Operation]:
    """Those over many tasks whose filter this one may have matched then."""
    candidates = Operation.objects.filter(
        matched__gt=100, high_water__gte=task.pk, created_at__gte=task.enqueued_at
    ).order_by("-pk")[:50]
    return [operation for operation in candidates if _may_have_met(operation, task)][:10]


def _may_have_met(operation: Operation, task: Task) -> bool:
    said = operation.filter_data
    known = {
        "task": task.task_name,
        "queue": task.queue,
        "fingerprint": task.error_fingerprint,
        "error_class": task.error_class,
    }
    same = all(said[key] == value for key, value in known.items() if key in said)
    return same and operation.last_id >= task.pk


def _find(task_id: str) -> Task:
    task: Task | None = Task.objects.select_related("locked_by").filter(pk=id_of(task_id)).first()
    if task is None:
        raise Http404(_("There is no task %s. It may have been deleted.") % task_id)
    return task


def action_of(verb: str) -> Action:
    """Those about a name have pages of their own."""
    if verb not in ACTIONS or verb in (Verb.HOLD_TYPE, Verb.RELEASE_TYPE):
        raise Http404(_("There is no such action."))
    return ACTIONS[verb]
