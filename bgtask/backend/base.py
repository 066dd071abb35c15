"""Define the backend, which stores tasks of Django's API and reads their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

from django.core.checks import CheckMessage
from django.core.exceptions import SynchronousOnlyOperation

from bgtask import registry
from bgtask.backend import aliases, announcements, api, checks, results, values
from bgtask.backend.finder import function_for_workers, task_finder
from bgtask.backend.functions import TaskFunction
from bgtask.backend.options import check_backend_options, option_of, own_options, unique_rule_of
from bgtask.exceptions import AlreadyThere, InvalidOption, UnknownTask
from bgtask.options import check_options, check_queue, check_schedule
from bgtask.values import brief

if TYPE_CHECKING:
    from bgtask.models import Task


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BgtaskTask(api.Task):  # type: ignore[misc]
    """
    A task of Django's API with the options of bgtask: ``@task(max_attempts=5)``, on Django 6.1.

    ``task_options`` gives the same options on every Django, and under every backend.
    """

    max_attempts: int | None = None
    max_run_time: float | timedelta | None = None
    backoff: Any = None


class BgtaskBackend(api.BaseTaskBackend):  # type: ignore[misc]
    """A backend of TASKS whose tasks are rows of bgtask's table."""

    task_class = BgtaskTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True
    stores_in_bgtask = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._calls: dict[Any, _Call] = {}

    @cached_property
    def checked_options(self) -> Mapping[str, Any]:
        """Return OPTIONS with plain values. Raise InvalidOption if one is wrong."""
        return check_backend_options(self.options)

    def validate_task(self, task: Any) -> None:
        """Raise InvalidTask if the task can't be stored: when it is defined, and at each call."""
        if isinstance(task.run_after, timedelta):
            # Django's check fails for a timedelta, although Django documents that it is allowed.
            api.BaseTaskBackend.validate_task(self, results.copy_of(task, run_after=None))
        elif task.run_after is None or isinstance(task.run_after, datetime):
            api.BaseTaskBackend.validate_task(self, task)
        else:
            raise api.InvalidTask(
                f"run_after={brief(task.run_after)} must be a datetime or a timedelta."
            )
        try:
            check_queue(task.queue_name, "queue_name")
            check_schedule(task.run_after, "run_after")
            check_options(own_options(task))
            unique_rule_of(task)
        except InvalidOption as error:
            raise api.InvalidTask(str(error)) from None
        task_finder.note(task.module_path)

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """
        Store the task, in the caller's transaction, and return its result.

        If the caller's open transaction is on another database than the queue's, the task is
        stored once that is committed. Raise InvalidTask if no worker could run the task.
        """
        call = self._call_of(task)
        call.function.bind(args, kwargs)
        try:
            return self._store(task, call.options, values.normalized(args, kwargs))
        except SynchronousOnlyOperation as error:
            raise SynchronousOnlyOperation(
                "You can't enqueue a task synchronously in an async context. Use await "
                f"{task.func.__name__}.aenqueue(…) instead."
            ) from error

    def _store(
        self, task: Any, options: Mapping[str, Any], params: tuple[list[Any], dict[str, Any]]
    ) -> Any:
        schedule = check_schedule(task.run_after, "run_after")
        stored: list[Any] = []
        row = self._store_row(task, {**options, "schedule": schedule}, params, stored.append)
        if row.was_there:
            return self._result_of_holder(row)
        if not stored:  # The row is stored when the transaction of another database is committed.
            return results.result_of_unstored(row, task, self.alias, params, schedule)
        if row.attempts:  # Within immediately() of bgtask.testing, it has run already.
            return self._result_of(row)
        return stored[0]

    def store_for_schedule(
        self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Task:
        """Store the task for a slot of a schedule, and return the row."""
        call = self._call_of(task)
        stored = {**call.options, **options}
        try:
            call.function.bind(args, kwargs)
        except TypeError:
            stored.pop("unique", None)  # The task will fail when it is run, with a clear error.
        return self._store_row(task, stored, values.normalized(args, kwargs))

    def _store_row(
        self,
        task: Any,
        options: Mapping[str, Any],
        params: tuple[list[Any], dict[str, Any]],
        on_result: Callable[[Any], object] = lambda result: None,
    ) -> Task:
        from bgtask.lifecycle.enqueue import store_task
        from bgtask.models import Task

        def on_stored(row: Task) -> None:
            result = results.result_of_stored(row, task, self.alias, params)
            on_result(result)
            announcements.enqueued(self, result)

        return store_task(
            Task,
            Task.objects.all().db,
            task.module_path,
            params,
            options,
            columns={"backend": self.alias, "result_id": uuid4()},
            on_stored=on_stored,
        )

    def _result_of_holder(self, row: Task) -> Any:
        """Return the result of the task that holds the unique key of a call."""
        if row.result_id is None:
            raise AlreadyThere(
                f"Task {row.pk} holds the unique key {row.unique_key!r}, and has no result, "
                f"because {row.task_name} is a background function. Give the two functions "
                "different keys.",
                key=str(row.unique_key),
                task_id=row.pk,
            )
        return self._result_of(row)

    def get_result(self, result_id: str) -> Any:
        """
        Return the result with this id, of any backend of bgtask.

        Raise TaskResultDoesNotExist if there is none, or if its function is not known here.
        """
        from bgtask.models import Task

        row = None
        if (number := _uuid(result_id)) is not None:
            row = Task.objects.filter(result_id=number).first()
        if row is None:
            raise api.TaskResultDoesNotExist(str(result_id))
        return self._result_of(row)

    def check(self, **kwargs: Any) -> Iterator[CheckMessage]:
        return checks.check_backend(self)

    def _result_of(self, row: Task) -> Any:
        try:
            task = registry.find(row.task_name).task  # type: ignore[attr-defined]
        except (UnknownTask, AttributeError):
            raise api.TaskResultDoesNotExist(
                f"{row.result_id}: its function {row.task_name} can't be imported here."
            ) from None
        alias = row.backend if aliases.get_backend(row.backend) is not None else self.alias
        return results.result_of_row(row, task, results.read_history(row), alias)

    def _call_of(self, task: Any) -> _Call:
        """
        Return how to store a call of this task. Raise InvalidTask if no worker could run it.

        Tasks are immutable, so what holds for the task of a module has to be found only once.
        """
        call = self._calls.get(task.func)
        if call is not None and call.function.task is task:
            return call
        self.validate_task(task)
        function = function_for_workers(task)
        call = _Call(function, self._options_of(task))
        if function.task is task:
            self._calls[task.func] = call
        return call

    def _options_of(self, task: Any) -> dict[str, Any]:
        try:
            defaults = self.checked_options
        except InvalidOption as error:
            raise api.InvalidTaskBackend(f"TASKS[{self.alias!r}]: {error}") from None
        names = ("max_attempts", "max_run_time")
        own = check_options({name: option_of(task, name, defaults) for name in names})
        if (rule := unique_rule_of(task)) is not None:
            own["unique"] = rule
        return {"queue": task.queue_name, "priority": int(task.priority), **own}


class _Call(NamedTuple):
    """The function of a task, and the options with which its calls are stored."""

    function: TaskFunction
    options: dict[str, Any]


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        return None
