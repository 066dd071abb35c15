"""Delete old finished tasks."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from bgtask.conf import require_autocommit
from bgtask.db.routing import TransactionsRefused, check_transactions, queue_alias
from bgtask.management.arguments import without_usage
from bgtask.worker.maintenance import Pruner


class Command(BaseCommand):
    help = "Delete finished tasks older than BGTASK['RETENTION'] says. Workers do so by themselves."

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return without_usage(super().create_parser(*args, **kwargs))

    def handle(self, **options: Any) -> None:
        try:
            require_autocommit(queue_alias())
            check_transactions(queue_alias())
            pruner = Pruner()
            pruned = pruner.prune()
        except (ImproperlyConfigured, TransactionsRefused) as error:
            raise CommandError(str(error)) from error
        except Error as error:
            raise CommandError(f"The database refused: {' '.join(str(error).split())}") from error
        self.stdout.write(
            "Deleted " + ", ".join(f"{number} {what}" for what, number in pruned.items()) + "."
        )
        for sentence in pruner.kept_in_words():
            self.stdout.write(sentence)
