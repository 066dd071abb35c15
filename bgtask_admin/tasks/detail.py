"""The page of one task: its history, its errors, and the actions for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _

from bgtask.models import Task, TaskHold
from bgtask.status import AttemptOutcome, Status
from bgtask_admin.actions import run
from bgtask_admin.actions.preview import Preview
from bgtask_admin.actions.registry import ACTIONS, Action, Verb, may_do, offered
from bgtask_admin.actions.stepping import lead_on
from bgtask_admin.models import MAX_HISTORY_TASKS, Operation
from bgtask_admin.permissions import VIEW, Details, check_permissions
from bgtask_admin.tasks.parsing import id_of
from bgtask_admin.tasks.selection import Selection
from bgtask_admin.ui import arguments
from bgtask_admin.ui.formatting import between, visible
from bgtask_admin.ui.pages import admin_url, page, permission_required, post_only, redirect_back
from bgtask_admin.ui.tracebacks import sections

MAX_LATEST_TASKS = 20
# A button runs these actions at once. Other actions show their options or ask for confirmation.
IMMEDIATE_VERBS = (Verb.REQUEUE, Verb.RUN_NOW, Verb.HOLD, Verb.RELEASE, Verb.RESET)


@permission_required(VIEW)
def task_page(request: HttpRequest, site: AdminSite, task_id: str) -> HttpResponse:
    task = _find(task_id)
    attempts = list(task.history.order_by("-token")[:50])
    details = Details.of(request.user)
    actions = offered(request.user, task.status)
    if task.unique_key is not None:
        actions += [one for one in [ACTIONS[Verb.GIVE_UP_KEY]] if may_do(request.user, one)]
    return page(
        request,
        site,
        "tasks/detail.html",
        title=visible(task.verbose_name or task.task_name),
        nav="tasks",
        task=task,
        at_once=[action for action in actions if _is_immediate(action, task)],
        asking=[action for action in actions if not _is_immediate(action, task)],
        timeline=timeline(task, attempts),
        attempts=[
            (attempt, sections(attempt.traceback) if details.tracebacks else [])
            for attempt in attempts
        ],
        last_error=sections(task.last_error) if task.last_error and not attempts else [],
        arguments=arguments.arguments_of(task) if details.arguments else None,
        result=arguments.result_of(task) if details.arguments else None,
        latest=_latest(task),
        log=_log(task),
        in_operations_log=_may_be_in_operations_log(task),
        hold=TaskHold.objects.in_force().filter(task_name=task.task_name).first(),
    )


@post_only
@permission_required(VIEW)
def task_verb(request: HttpRequest, site: AdminSite, task_id: str, verb: str) -> HttpResponse:
    action = action_of(verb)
    check_permissions(request.user, action.permission)
    task = _find(task_id)
    url = admin_url(request)("bgtask_task_change", task.pk)
    if _runs_again(action, task):  # The page may have been loaded before the task succeeded.
        query = urlencode({"verb": verb, "id": task.pk, "next": url})
        return HttpResponseRedirect(f"{admin_url(request)('bgtask_admin_confirm')}?{query}")
    form = action.form(request.POST)
    if not form.is_valid():
        messages.error(request, " ".join(str(error) for error in form.errors.values()))
        return redirect_back(request, url)
    preview = Preview.take(action, Selection.parse({"id": str(task.pk)}))
    operation = run.start(preview, form.cleaned_data, user=request.user)
    return lead_on(request, operation, url)


def _is_immediate(action: Action, task: Task) -> bool:
    """Return whether a button of the task's page runs the action at once."""
    return action.verb in IMMEDIATE_VERBS and not _runs_again(action, task)


def _runs_again(action: Action, task: Task) -> bool:
    """Return whether the action repeats work that was done. If so, it needs a confirmation."""
    return action.verb == Verb.REQUEUE and task.status == Status.SUCCESSFUL


@dataclass(frozen=True)
class Event:
    """One line of a task's timeline. ``after`` is the time since the previous line."""

    at: datetime | None
    what: str
    after: str = ""
    css: str = ""
    more: str = ""
    is_running: bool = False


def timeline(task: Task, attempts: list[Any]) -> list[Event]:
    """Return the events of the task, from its enqueue until now."""
    events: list[tuple[datetime | None, str, str, str]] = [
        (task.enqueued_at, _("Enqueued"), "", "")
    ]
    for attempt in reversed(attempts):
        number, outcome = attempt.number, attempt.get_outcome_display()
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
                _("Attempt %(number)d: %(outcome)s") % {"number": number, "outcome": outcome},
                "" if attempt.outcome == AttemptOutcome.INTERRUPTED else "bg-bad",
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
    """Return the latest tasks of the same function. This task may be among them."""
    return list(
        Task.objects.filter(task_name=task.task_name)
        .only("status", "run_at", "finished_at", "duration_ms", "attempts", "error_class")
        .order_by("-pk")[:MAX_LATEST_TASKS]
    )


def _log(task: Task) -> list[LogEntry]:
    kind = ContentType.objects.get_for_model(Task)
    entries = LogEntry.objects.filter(content_type_id=kind.pk, object_id=str(task.pk))
    return list(entries.select_related("user").order_by("-action_time", "-pk")[:30])


def _may_be_in_operations_log(task: Task) -> bool:
    """
    Return whether an action may have changed this task without an entry for the task alone.

    Such an action was on many tasks, or had no user. It is not stored which tasks it changed, so
    the page must not list it as one of this task's. A finished task stays as it is until an
    action makes it unfinished or deletes it. So no action that began later has changed it.
    """
    candidates = Operation.objects.filter(
        Q(matched__gt=MAX_HISTORY_TASKS) | Q(changed__gt=MAX_HISTORY_TASKS) | Q(user_id=None),
        high_water__gte=task.pk,
        created_at__gte=task.enqueued_at,
    )
    if task.finished_at is not None:
        candidates = candidates.filter(previewed_at__lte=task.finished_at)
    return bool(candidates.exists())


def _find(task_id: str) -> Task:
    task: Task | None = Task.objects.select_related("locked_by").filter(pk=id_of(task_id)).first()
    if task is None:
        raise Http404(_("There is no task %s. It may have been deleted.") % task_id)
    return task


def action_of(verb: str) -> Action:
    """Return the action. Raise Http404 for actions on a name, which have their own pages."""
    if verb not in ACTIONS or verb in (Verb.HOLD_TYPE, Verb.RELEASE_TYPE):
        raise Http404(_("There is no such action."))
    return ACTIONS[verb]
