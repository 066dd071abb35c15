from __future__ import annotations

import argparse
import getpass
import os
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from bgtask.conf import require_autocommit
from bgtask.db.routing import TransactionsRefused, check_transactions, queue_alias
from bgtask.models import Task
from bgtask.status import FINISHED, Status
from bgtask.values import as_text, is_encodable
from bgtask_admin.actions import run
from bgtask_admin.actions.preview import Preview
from bgtask_admin.actions.recording import as_stored
from bgtask_admin.actions.registry import ACTIONS, Verb
from bgtask_admin.permissions import ALL_DETAILS
from bgtask_admin.tasks.selection import InvalidSelection, Selection

# The names of these options in the filter.
_FILTERS = {
    **{
        name: name
        for name in (
            "error_class", "fingerprint", "error", "queue", "task", "worker", "backend", "since",
            "until", "status",
        )
    },
    "attempts": "attempts_min",
    "id": "ids",
}  # fmt: skip


class Command(BaseCommand):
    help = "Requeue the finished tasks that match all of these; refuses to requeue everything."

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(*args, **kwargs)
        parser.print_usage = lambda file=None: None  # type: ignore[method-assign]
        return parser  # An error is one line, without the usage. --help shows the usage.

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("stray", nargs="*", help=argparse.SUPPRESS)
        which = parser.add_argument_group("which tasks")
        add = partial(which.add_argument, action=_Once)
        add("--error-class", help="as in the admin: KeyError, smtplib.SMTPException")
        add("--fingerprint", help="the error group")
        add("--error", metavar="TEXT", help="text of the error; needs --since")
        add("--queue")
        add("--task", metavar="NAME")
        add("--worker", metavar="LABEL", help="last run by this one")
        add("--backend", metavar="ALIAS", help="Django's tasks of this backend of TASKS")
        add("--attempts", metavar="N", help="at least so many")
        add("--since", metavar="WHEN", help="24h, or a date and time")
        add("--until", metavar="WHEN")
        add(
            "--status",
            type=str.upper,
            choices=sorted(status.value for status in FINISHED),
            help="FAILED and CANCELLED, if not said",
        )
        add("--id", metavar="ID[,ID…]")
        parser.add_argument(
            "--reset-attempts", action="store_true", help="start again from attempt 1"
        )
        parser.add_argument("--spread", type=int, metavar="MINUTES", help="not all of them at once")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

    def handle(self, **given: Any) -> None:
        try:
            self._handle(given)
        except (ImproperlyConfigured, TransactionsRefused) as error:
            raise CommandError(str(error)) from error
        except Error as error:
            raise CommandError(f"The database refused: {_one_line(error)}") from error

    def _handle(self, given: dict[str, Any]) -> None:
        require_autocommit(queue_alias())
        action = ACTIONS[Verb.REQUEUE]
        options = action.form(
            {"spread": given["spread"], "reset_attempts": given["reset_attempts"]}
        )
        if not options.is_valid():
            raise CommandError(f"--spread: {' '.join(map(str, options.errors['spread']))}")
        check_transactions(queue_alias())
        try:
            selection = Selection.parse_narrow(_filter(given))
            preview = Preview.take(action, selection)
        except InvalidSelection as error:
            raise CommandError(" ".join(error.messages)) from None
        missing = _missing(selection)
        if preview.matched:
            self._requeue(preview, options.cleaned_data, dry_run=given["dry_run"])
        elif not missing:
            self.stdout.write(f"No task matches: {preview.in_words()}.")
        if missing:
            ids = ", ".join(map(str, missing))
            raise CommandError(f"No task has the id {ids}: it may have been pruned, or deleted.")

    def _requeue(self, preview: Preview, options: dict[str, Any], *, dry_run: bool) -> None:
        tasks = "task" if preview.matched == 1 else "tasks"
        self.stdout.write(f"{preview.matched:,} {tasks}: {preview.in_words()}")
        if dry_run:
            for group in preview.breakdown().groups:
                self.stdout.write(
                    f"{group.count:>10,}  {group.task_name} in queue {group.queue}, {group.status}"
                )
            return
        by = f"{as_stored(_user())[:200]} (shell)"
        operation = run.start(preview, options, by=by)
        while operation.is_running:
            try:
                run.step(operation)
            except Error as error:
                raise CommandError(
                    f"The database refused: {_one_line(error)}. {operation.changed:,} were "
                    f"requeued. Run the command again for the rest, or continue operation "
                    f"{operation.pk} in the admin's operations log."
                ) from error
            if operation.is_running:
                self.stdout.write(f"{operation.handled:,} of {operation.matched:,}")
        self.stdout.write(self.style.SUCCESS(run.result_in_words(operation, ALL_DETAILS)))


class _Once(argparse.Action):
    """Refuse an option that is given twice. argparse would drop the first value."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "said twice: run the command once for each")
        setattr(namespace, self.dest, values)


def _one_line(error: Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's uid may have no name.
        return f"uid {os.getuid()}"


def _value(option: str, value: Any) -> str:
    try:
        text = as_text(value)
        text = str(value) if text is None else text
    except Exception as error:  # Code may give any object.
        raise CommandError(
            f"{_flag(option)} can't be turned into text: {type(error).__name__}."
        ) from error
    if not is_encodable(text):
        raise CommandError(f"{_flag(option)}={text!a} has characters that no encoding has.")
    return text


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _missing(selection: Selection) -> list[int]:
    """Return the chosen ids that no task has. Other filters are ignored."""
    ids = selection.cleaned.get("ids", ())
    found = set(Task.objects.filter(pk__in=ids).values_list("pk", flat=True))
    return [pk for pk in ids if pk not in found]


def _filter(given: dict[str, Any]) -> dict[str, str]:
    if stray := given["stray"]:
        raise CommandError(
            f"{' '.join(stray)} belongs to no option. Tasks are chosen by their ids with "
            f"--id={','.join(stray)}; --help lists the other filters."
        )
    said = {}
    for option, name in _FILTERS.items():
        if given[option] is None:
            continue
        said[name] = _value(option, given[option])
        if not said[name].strip():
            # A script may pass an empty variable. Ignoring the option would requeue more tasks.
            raise CommandError(f"{_flag(option)} says nothing: give it a value, or leave it out.")
    if not said:
        raise CommandError(
            "Without any filter this would mean every task. Say which: all that failed are "
            "--status=FAILED, a single one is --id=ID; --help lists the other filters."
        )
    if "error" in said:
        if said.setdefault("status", Status.FAILED.value) != Status.FAILED:
            raise CommandError(
                "--error searches only tasks with --status=FAILED. Leave --status out."
            )
        if "since" not in said:
            raise CommandError(
                "--error reads the text of every error in a window of time: add --since=24h."
            )
    return said
