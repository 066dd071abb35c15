"""
Loggers that never raise.

Log handlers are code of the project. logging itself contains most of their errors, but not one
that ``emit()`` raises itself, and no SystemExit. Such an error must not end a thread of a worker,
fail a task or keep an outcome from being written.
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
