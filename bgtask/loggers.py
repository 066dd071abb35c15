"""
Log without raising an error, and log the errors that code of the project raises.

Log handlers are code of the project. logging handles most of their errors, but not an error that
``emit()`` itself raises, and not SystemExit. Such an error must not end a thread of a worker, fail
a task or keep an outcome from being written.

The dashboard doesn't need this. In a web process, Django handles the error of a log handler like
any other error of a request.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any

_reported: set[type[BaseException]] = set()


def get_logger(name: str) -> SafeLogger:
    """Return the logger of this name for a worker's code and for the code that a worker calls."""
    return SafeLogger(logging.getLogger(name))


def is_ctrl_c(error: BaseException) -> bool:
    """
    Return whether the error may be the Ctrl-C of a user, which must end the program.

    Python raises KeyboardInterrupt for it in the main thread only. A worker has a signal handler
    instead.
    """
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
    )


class SafeLogger(logging.LoggerAdapter):
    """A logger whose calls return even if a handler raises an error, which is then reported."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        # This method is one more frame between the caller and logging.
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        try:
            super().log(level, msg, *args, **kwargs)
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            _report(error)

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return msg, kwargs  # The adapter of Python < 3.13 would drop the caller's ``extra``.

    def caught(self, error: BaseException, msg: str, *args: object) -> None:
        """
        Log the error, for an ``except`` clause. Raise it again if it may be the Ctrl-C of a user.

        This is ``catch()`` for code that runs for each task: entering a ``try`` costs nothing.
        """
        if is_ctrl_c(error):
            raise error
        self.error(msg, *args, exc_info=error, stacklevel=2)

    def catch(self, msg: str, *args: object) -> _Catch:
        """
        Return a context manager that logs what the block raises, and goes on after the block.

        Use it around code of the project, such as a receiver of a signal. Even SystemExit in such
        code must not end a thread that the worker needs.
        """
        return _Catch(self, msg, args)

    def log_exception(
        self,
        level: int,
        msg: str,
        *args: object,
        error: BaseException,
        text: str,
        extra: Mapping[str, object],
    ) -> None:
        """
        Log the exception, with ``text`` as its formatted traceback.

        Handlers that only write text, to a file for instance, use ``text``. Error trackers use
        the exception itself.
        """
        if not self.isEnabledFor(level):
            return
        try:
            file, line, function, _ = self.logger.findCaller(stacklevel=2)
            record = self.logger.makeRecord(
                self.logger.name,
                level,
                file,
                line,
                msg,
                args,
                (type(error), error, error.__traceback__),
                function,
                extra,
            )
            record.exc_text = text
            self.logger.handle(record)
        except BaseException as problem:
            if is_ctrl_c(problem):
                raise
            _report(problem)


class _Catch:
    """The context manager of ``SafeLogger.catch``. A generator would take ten times as long."""

    __slots__ = ("_args", "_logger", "_msg")

    def __init__(self, logger: SafeLogger, msg: str, args: tuple[object, ...]) -> None:
        self._logger, self._msg, self._args = logger, msg, args

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if error is None or is_ctrl_c(error):
            return False
        self._logger.error(self._msg, *self._args, exc_info=error, stacklevel=2)
        return True


def _report(error: BaseException) -> None:
    """Write the error to standard error, but only the first of its class."""
    if type(error) in _reported:
        return
    _reported.add(type(error))
    try:
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(f"A log handler raised an error, and what it should log is lost.\n{text}")
    except Exception:
        return  # There is no standard error, or nobody reads it.


def is_worth_logging(failures: int) -> bool:
    """Return whether to log this failure: the 1st, the 10th or every 100th, as outages may last."""
    return failures in (1, 10) or failures % 100 == 0
