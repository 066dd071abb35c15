"""Turn an exception into text that every database can store, its class and its fingerprint."""

from __future__ import annotations

import hashlib
import os
import re
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bgtask.redaction import redact

MAX_TEXT = 16_384  # Characters of a stored traceback. A longer one loses its middle.
MAX_MESSAGE = 1_000
MAX_CLASS = 255
MAX_NOTES = 20  # Greatest number of notes that a message includes.
MAX_CHAIN = 20  # Greatest number of causes that are formatted.

_BGTASK = str(Path(__file__).parent) + os.sep  # With it, a path like bgtask_jobs doesn't match.
_LIBRARIES = tuple(
    {*(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))}
)


@dataclass(frozen=True, slots=True)
class Failure:
    """The texts that are stored about an exception, never the exception itself."""

    error_class: str
    message: str
    traceback: str
    fingerprint: str

    @property
    def summary(self) -> str:
        """Return the class and the first line of the message, for a log line."""
        return first_line(f"{self.error_class}: {self.message}", 100)


def describe(error: BaseException) -> Failure:
    """
    Return the exception as storable text; never raise an error, and never take long.

    Mask secrets in URLs, in ``password=…`` and the like. Replace NUL and lone surrogates. The
    message has the error's notes on further lines. A long message loses its end, and a long
    traceback its middle.
    """
    error_class = class_of(error)
    text = _message_of(error)
    message = _storable_message("\n".join(filter(None, [text, *_notes_of(error)])))
    return Failure(
        error_class=error_class,
        message=message,
        traceback=storable(_format(error)),
        fingerprint=fingerprint(error_class, _place(error.__traceback__), message if text else ""),
    )


def plain_failure(error_class: str, message: str) -> Failure:
    """Return a failure without an exception, such as lost, timed out or malformed."""
    short = _storable_message(message)
    return Failure(
        error_class=storable(error_class, MAX_CLASS),
        message=short,
        traceback=storable(message),
        fingerprint=fingerprint(error_class, "", short),
    )


def class_of(error: BaseException) -> str:
    """Return ``module.QualifiedName``, or only ``QualifiedName`` for a built-in."""
    kind = type(error)
    name = getattr(kind, "__qualname__", kind.__name__)
    module = getattr(kind, "__module__", None)
    full = f"{module}.{name}" if isinstance(module, str) and module != "builtins" else name
    return storable(full, MAX_CLASS)


def first_line(text: str, limit: int) -> str:
    """Return the first line that isn't blank, without its end if it is too long."""
    lines = text.strip().splitlines()
    return cut_end(lines[0].rstrip(), limit) if lines else ""


def cut_end(text: str, limit: int) -> str:
    """Return the text, or its beginning and an ellipsis if it has more characters than that."""
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"[:limit]


def storable(text: str, limit: int = MAX_TEXT) -> str:
    """
    Return the text in a form that every database can store. A long text loses its middle.

    It has no NUL, no lone surrogates, no secrets and at most ``limit`` characters.
    """
    return _storable(text, limit, _cut_middle)


def _storable_message(text: str) -> str:
    return _storable(text, MAX_MESSAGE, cut_end)


def _storable(text: str, limit: int, cut: Callable[[str, int], str]) -> str:
    if len(text) > 2 * limit:  # Cut first, so that the next steps are quick for any size.
        text = cut(text, 2 * limit)
    text = text.replace("\x00", "\ufffd")
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return cut(redact(text), limit)


def _cut_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    note = f"\n… {len(text) - limit:,} characters left out …\n"
    room = max(limit - len(note), 0)
    if room < 40:
        return text[:limit]
    head = room // 3  # The tail gets more, because it names the error.
    return text[:head] + note + text[len(text) - (room - head) :]


def fingerprint(error_class: str, place: str, message: str) -> str:
    """
    Return a short key that is the same for all errors of one kind.

    The key is made of the class, the innermost frame of project code and the first line of the
    message. Numbers, ids, quotations and addresses are removed from that line, so that "user 7
    not found" and "user 8 not found" are one group.
    """
    kind = f"{error_class}\n{place}\n{_generalise(message)}"
    return hashlib.sha256(kind.encode("utf-8", "replace")).hexdigest()[:32]


_VARIABLE = (
    re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|“[^”\n]*”|`[^`\n]*`"),
    re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.I),
    re.compile(r"\b0x[0-9a-f]+\b", re.I),
    re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.I),
    re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,}\b", re.I),
    re.compile(r"[-+]?\d+(?:[.,:]\d+)*"),
)


def _generalise(message: str) -> str:
    line = message.split("\n", 1)[0][:300]
    for pattern in _VARIABLE:
        line = pattern.sub("#", line)
    return line


def _message_of(error: BaseException) -> str:
    try:
        return str.__str__(str(error))  # A plain str, even if __str__ returns a subclass.
    except BaseException as problem:
        # An error's __str__ is user code as well, and may even call sys.exit().
        return f"<its __str__ raised {type(problem).__name__}>"


def _notes_of(error: BaseException) -> list[str]:
    """Return what the project added to the error by ``add_note()``."""
    try:
        notes = list(getattr(error, "__notes__", ()))[:MAX_NOTES]
        return [str.__str__(str(note)) for note in notes]
    except BaseException:  # __notes__ can be set to anything.
        return []


def _format(error: BaseException) -> str:
    try:
        summary = traceback.TracebackException.from_exception(_shortened(error), compact=True)
        return "".join(summary.format())
    except BaseException as problem:
        return (
            f"{class_of(error)}: {_message_of(error)}\n"
            f"(Its traceback could not be formatted: {type(problem).__name__}.)"
        )


def _shortened(error: BaseException) -> BaseException:
    """
    Cut the error's chain of causes after MAX_CHAIN, and return the error.

    A chain of thousands of causes would take minutes to format.
    """
    link: BaseException | None = error
    for _ in range(MAX_CHAIN):
        link = (link.__cause__ or link.__context__) if link is not None else None
    if link is not None:
        link.__cause__ = None
        link.__context__ = None
    return error


def clear_frames(error: BaseException) -> None:
    """
    Clear the local variables of all frames in the error's traceback, and in those of its causes.

    The traceback itself stays, with its files, lines and functions.
    """
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        link = left.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)
        left += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            left += link.exceptions


def _place(frames: TracebackType | None) -> str:
    """
    Return ``file:function`` of the innermost frame of project code.

    If there is none, return that of the innermost frame outside bgtask.
    """
    project = last = ""
    while frames is not None:
        code = frames.tb_frame.f_code
        filename = code.co_filename
        if not filename.startswith(_BGTASK):
            last = f"{os.path.basename(filename)}:{code.co_name}"
            if is_project_code(filename):
                project = last
        frames = frames.tb_next
    return project or last


def is_project_code(filename: str) -> bool:
    """Return whether this is a file of the project, not of a library, of Python or of bgtask."""
    return not (
        filename.startswith(("<", _BGTASK))
        or "site-packages" in filename
        or "dist-packages" in filename
        or filename.startswith(_LIBRARIES)
    )
