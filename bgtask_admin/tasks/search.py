"""Translate the text of the search box into filters."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from bgtask.status import Status
from bgtask_admin.tasks.filters import NO_JSON, json_value

# word:value. A value with spaces is in quotes, where \" stands for a quotation mark.
_PART = re.compile(r'(?:([A-Za-z_][\w.-]*):)?(?:"((?:[^"\\]|\\.)*)"(?!\S)|(\S+))', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')
MAX_LENGTH = 500
_TASK_NAME = re.compile(r"\A[^\W\d]\w*(?:\.[^\W\d]\w*)+\Z")
_ID = re.compile(r"\A#?([0-9]+)\Z")  # The pages write “#42”.
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
    "unique": "unique",
    "since": "since",
    "until": "until",
    "id": "id",
}
KNOWN = ("status", "queue", "task", "class", "error", "group", "attempts", "worker",
         "backend", "unique", "since", "until", "id", "args.NAME")  # fmt: skip


def parse_search(text: str) -> dict[str, str]:
    """
    Return the filters for an id, a task name, a status, ``word:value`` or the text of an error.

    All that is not ``word:value`` is the text of an error, as it was typed, unless each word of it
    is an id, a task name or a status. So a pasted error finds itself. Search error texts in the
    tasks that failed in the last day, unless the search has another status or time.

    Raise ValidationError if a word is unknown.
    """
    if len(text) > MAX_LENGTH:  # A shortened search would find other tasks.
        raise ValidationError(
            _("A search must have at most %(count)d characters."), params={"count": MAX_LENGTH}
        )
    parts = [_Part.of(match) for match in _PART.finditer(text)]
    if not any(part.is_field for part in parts) and _is_prose(parts):
        return text_query(text)
    fields = [part for part in parts if part.is_field or part.is_unknown]
    free = [part for part in parts if not (part.is_field or part.is_unknown)]
    named = [part.named() for part in free]
    is_text = not all(key for key, _value in named)
    found: dict[str, str] = {}
    for key, value in [part.filter() for part in fields] + ([] if is_text else named):
        if key in found:
            raise ValidationError(
                _("“%(key)s” is given twice. To search for a text, put it in quotation marks."),
                params={"key": key},
            )
        found[key] = value.upper() if key == "status" else value
    if is_text:
        found["error"] = " ".join(filter(None, [found.get("error"), _text(text, parts, free)]))
    return _with_defaults(found)


def text_query(text: str) -> dict[str, str]:
    """Return the filters that search the errors of the last day for exactly this text."""
    text = text.strip()
    return _with_defaults({"error": text}) if text else {}


def _with_defaults(found: dict[str, str]) -> dict[str, str]:
    if "error" in found:
        found.setdefault("status", Status.FAILED.value)
        found.setdefault("since", "24h")
    return found


@dataclass(frozen=True)
class _Part:
    """A piece of a search: ``word:value``, a text in quotation marks, or a word."""

    word: str
    value: str
    is_quoted: bool
    start: int
    end: int

    @classmethod
    def of(cls, match: re.Match[str]) -> _Part:
        word, quoted, plain = match.groups()
        if word and plain and plain.startswith(("//", "'")):  # A URL, or KeyError:'x'.
            word, plain = "", match[0]
        value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
        return cls(word or "", value, quoted is not None, *match.span())

    @property
    def is_argument(self) -> bool:
        return self.word.startswith("args.") and len(self.word) > 5

    @property
    def is_field(self) -> bool:
        return self.is_argument or self.word.lower() in _WORDS

    @property
    def is_unknown(self) -> bool:
        return bool(self.word) and not self.is_field

    def filter(self) -> tuple[str, str]:
        """Return the filter and its value. Raise ValidationError if the word is unknown."""
        if self.is_argument:
            value = _quoted_argument(self.value) if self.is_quoted else self.value
            return "argument", f"{self.word[5:]}:{value}"
        if self.is_unknown:
            raise ValidationError(
                _(
                    "“%(word)s” is not a search field. For an argument use args.%(word)s:42. "
                    "To search for a text, put it in quotation marks. Fields: %(known)s."
                ),
                params={"word": self.word[:50], "known": ", ".join(KNOWN)},
            )
        return _WORDS[self.word.lower()], self.value

    def named(self) -> tuple[str, str]:
        """Return the filter for a word that is an id, a status or a task name, or else ("", …)."""
        value = self.value
        if self.is_quoted:
            return "", value
        if value.startswith("args.") and value.endswith(":"):
            raise ValidationError(
                _('“%(value)s” has no value. The empty text is %(value)s"".'),
                params={"value": value[:50]},
            )
        if match := _ID.match(value):
            return "id", match[1]
        if value.upper() in Status.values:
            return "status", value
        return ("task", value) if _TASK_NAME.match(value) else ("", value)


def _is_prose(parts: list[_Part]) -> bool:
    """
    Return whether the search is a pasted text with a colon in it, such as “to db:5432 refused”.

    A single ``word:value`` with an unknown word is rather a mistake in a field.
    """
    others = [part for part in parts if not part.is_unknown]
    return len(others) < len(parts) and any(not part.named()[0] for part in others)


def _text(text: str, parts: list[_Part], free: list[_Part]) -> str:
    """Return the free parts as they were typed, or without the quotation marks of a single one."""
    if len(free) == 1:
        return free[0].value
    runs: list[tuple[int, int]] = []
    for before, part in zip([None, *parts], parts, strict=False):
        if part not in free:
            continue
        if runs and before in free:
            runs[-1] = (runs[-1][0], part.end)
        else:
            runs.append((part.start, part.end))
    return " ".join(text[start:end] for start, end in runs)


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
