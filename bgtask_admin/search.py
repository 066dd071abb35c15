"""The one search box: what people type → what the filter says."""

from __future__ import annotations

import re

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from bgtask.status import Status

# word:value, with the value in quotes where it has spaces.
_PART = re.compile(r'(?:([A-Za-z_][\w.-]*):)?(?:"([^"]*)"|(\S+))')
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
    "since": "since",
    "until": "until",
    "id": "id",
}
KNOWN = ("status", "queue", "task", "class", "error", "group", "attempts", "worker", "since",
         "until", "id", "args.NAME")  # fmt: skip


def parse_search(text: str) -> dict[str, str]:
    """
    An id, a task name, a status, ``word:value`` … or else the text of an error.

    That text is looked for among what failed in the last day, if nothing else is said. Raises
    ValidationError for a word that it does not know.
    """
    found: dict[str, str] = {}
    free: list[str] = []
    for word, quoted, plain in _PART.findall(text[:500]):
        value = quoted or plain
        if not word:
            key, value = _without_word(value, bool(quoted))
        elif word.startswith("args.") and len(word) > 5:
            key, value = "argument", f"{word[5:]}:{value}"
        elif word.lower() in _WORDS:
            key = _WORDS[word.lower()]
        else:
            raise ValidationError(
                _("There is no “%(word)s:” to search by. Known are: %(known)s."),
                params={"word": word[:50], "known": ", ".join(KNOWN)},
            )
        if not key:
            free.append(value)
        elif key in found:
            raise ValidationError(_("“%(key)s” is said twice."), params={"key": key})
        else:
            found[key] = value.upper() if key == "status" else value
    if free:
        found["error"] = " ".join(filter(None, [found.get("error"), *free]))
    if "error" in found:
        found.setdefault("status", Status.FAILED.value)
        found.setdefault("since", "24h")
    return found


def _without_word(value: str, was_quoted: bool) -> tuple[str, str]:
    if was_quoted:
        return "", value
    if value.isascii() and value.isdigit():
        return "id", value
    if value.upper() in Status.values:
        return "status", value
    if _TASK_NAME.match(value):
        return "task", value
    return "", value
