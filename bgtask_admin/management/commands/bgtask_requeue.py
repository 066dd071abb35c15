from __future__ import annotations

import getpass
import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from bgtask.status import FINISHED, Status
from bgtask_admin import operations
from bgtask_admin.preview import Preview
from bgtask_admin.selection import InvalidSelection, Selection
from bgtask_admin.verbs import ACTIONS, Verb

# What the filter calls these options.
_FILTERS = {
    **{
        name: name
        for name in (
            "error_class", "fingerprint", "error", "queue", "task", "worker", "since", "until",
            "status",
        )
    },
    "attempts": "attempts_min",
    "id": "ids",
}  # fmt: skip


class Command(BaseCommand):
    help = "Requeue the finished tasks that match all of these; refuses to requeue everything."

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_argument_group("which tasks")
        which.add_argument("--error-class", help="as in the admin, for instance builtins.KeyError")
        which.add_argument("--fingerprint", help="the error group")
        which.add_argument("--error", metavar="TEXT", help="text of the error; needs --since")
        which.add_argument("--queue")
        which.add_argument("--task", metavar="NAME")
        which.add_argument("--worker", metavar="LABEL", help="last run by this one")
        which.add_argument("--attempts", metavar="N", help="at least so many")
        which.add_argument("--since", metavar="WHEN", help="24h, or a date and time")
        which.add_argument("--until", metavar="WHEN")
        which.add_argument(
            "--status",
            choices=sorted(FINISHED),
            help="FAILED and CANCELLED, if not said",
        )
        which.add_argument("--id", metavar="ID[,ID…]")
        parser.add_argument("--reset-attempts", action="store_true", help="give all attempts again")
        parser.add_argument("--spread", type=int, metavar="MINUTES", help="not all of them at once")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

    def handle(self, **given: Any) -> None:
        action = ACTIONS[Verb.REQUEUE]
        options = action.form(
            {"spread": given["spread"], "reset_attempts": given["reset_attempts"]}
        )
        if not options.is_valid():
            raise CommandError(f"--spread: {options.errors['spread'].as_text()}")
        try:
            selection = Selection.parse_narrow(_filter(given))
            preview = Preview.take(action, selection)
        except InvalidSelection as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(f"{preview.matched:,} tasks: {preview.in_words()}")
        if given["dry_run"]:
            for group in preview.breakdown().groups:
                self.stdout.write(
                    f"{group.count:>10,}  {group.task_name} in queue {group.queue}, {group.status}"
                )
            return
        by = f"{_user()} (shell)"
        operation = operations.start(preview, options.cleaned_data, by=by)
        while operation.is_running:
            operations.step(operation)
            if operation.is_running:
                self.stdout.write(f"{operation.handled:,} of {operation.matched:,}")
        self.stdout.write(self.style.SUCCESS(operations.result_in_words(operation)))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's uid may have no name.
        return f"uid {os.getuid()}"


def _filter(given: dict[str, Any]) -> dict[str, str]:
    said = {}
    for option, name in _FILTERS.items():
        if given[option] is None:
            continue
        said[name] = str(given[option])
        if not said[name].strip():
            # A variable of a script that is empty: without it, more would be requeued.
            raise CommandError(
                f"--{option.replace('_', '-')} says nothing: give it a value, or leave it out."
            )
    if "error" in said:
        said.setdefault("status", Status.FAILED.value)
    return said
