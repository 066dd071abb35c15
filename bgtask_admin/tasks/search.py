"""Translate the text of the search box into filters."""

from __future__ import annotations

import json
import re

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from bgtask.status import Status
from bgtask_admin.tasks.filters import NO_JSON, json_value

# word:value. A value with spaces is in quotes, where \" stands for a quotation mark.
_PART = re.compile(r'(?:([A-Za-z_][\w.-]*):)?(?:"((?:[^"\\]|\\.)*)"|(\S+))', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')
MAX_LENGTH = 500
_TASK_NAME = re.compile(r"\A[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\Z")
_WORDS = {
    "status": "status",
    "state": "status",
    "queue": "queue",
    "task": "task",
    "class": "error_class",
    "error_class": "error_class",
    "error": "error",
    "group": "fingerprint",
    "fingerprint": "fingerprint",
    "attempts": "attempts_min",
    "worker": "worker",
    "backend": "backend",
    "since": "since",
    "until": "until",
    "id": "id",
}
KNOWN = ("status", "queue", "task", "class", "error", "group", "attempts", "worker",
         "backend", "since", "until", "id", "args.NAME")  # fmt: skip


def parse_search(text: str) -> dict[str, str]:
    """
    Return the filters for an id, a task name, a status, ``word:value`` or the text of an error.

    Search error texts in the tasks that failed in the last day, unless the search has another
    status or time. Raise ValidationError if a word is unknown.
    """
    found: dict[str, str] = {}
    free: list[str] = []
    if len(text) > MAX_LENGTH:  # A shortened search would find other tasks.
        raise ValidationError(
            _("A search must have at most %(count)d characters."), params={"count": MAX_LENGTH}
        )
    for word, quoted, plain in (match.groups() for match in _PART.finditer(text)):
        value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
        if not word:
            key, value = _without_word(value, quoted is not None)
        elif word.startswith("args.") and len(word) > 5:
            key = "argument"
            value = f"{word[5:]}:{value if quoted is None else _quoted_argument(value)}"
        elif word.lower() in _WORDS:
            key = _WORDS[word.lower()]
        else:
            raise ValidationError(
                _(
                    "“%(word)s” is not a search field. For an argument use args.%(word)s:42. "
                    "Fields: %(known)s."
                ),
                params={"word": word[:50], "known": ", ".join(KNOWN)},
            )
        if not key:
            free.append(value)
        elif key in found:
            raise ValidationError(_("“%(key)s” is given twice."), params={"key": key})
        else:
            found[key] = value.upper() if key == "status" else value
    if free:
        found["error"] = " ".join(filter(None, [found.get("error"), *free]))
    if "error" in found:
        found.setdefault("status", Status.FAILED.value)
        found.setdefault("since", "24h")
    return found


def _quoted_argument(value: str) -> str:
    """
    Return a value that was in quotation marks in the syntax of the filter.

    In quotation marks, a number, true, false or null is a text. A list or an object needs
    quotation marks because of its blanks, and stays a list or an object.
    """
    read = json_value(value)
    is_plain = read is NO_JSON and value and value == value.strip()
    if is_plain or isinstance(read, list | dict):
        return value
    return json.dumps(value, ensure_ascii=False)


def _without_word(value: str, was_quoted: bool) -> tuple[str, str]:
    if was_quoted:
        return "", value
    if value.startswith("args.") and value.endswith(":"):
        raise ValidationError(
            _('“%(value)s” has no value. The empty text is %(value)s"".'),
            params={"value": value[:50]},
        )
    if value.isascii() and value.isdigit():
        return "id", value
    if value.upper() in Status.values:
        return "status", value
    if _TASK_NAME.match(value):
        return "task", value
    return "", value
