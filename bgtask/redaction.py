"""Define the one list of secrets, in texts and by name."""

from __future__ import annotations

import re

MASK = "********"

_WORDS = (
    r"passw(?:or)?d|passphrase|secret|token|api[_-]?key|auth(?:orization)?|credential|signature|"
    r"private[_-]?key|access[_-]?key|session|cookie|card[_-]?number"
)
_WHOLE_WORDS = r"pin|cvv|iban"

_NAME = re.compile(rf"{_WORDS}|passw|\b(?:{_WHOLE_WORDS})\b", re.I)

# Every repetition is bounded, so that hostile text can't make a search take minutes.
_URL = re.compile(
    r"(?P<keep>(?<![\w+.-])[a-z][a-z0-9+.-]{0,30}://[^\s/:@'\"]{0,128}:)[^\s@'\"]{1,256}(?=@)",
    re.I,
)
_SENSITIVE = rf"(?<![\w-])(?:[\w-]{{0,40}}?(?:{_WORDS})[\w-]{{0,40}}|(?:{_WHOLE_WORDS})(?![\w-]))"
_VALUE = r"""(?:'[^'\n]{0,512}'|"[^"\n]{0,512}"|['"]?[^\s'",;)}\]&]{1,512})"""
_IN_TEXTS = (
    _URL,  # scheme://user:password@host
    # password='…', "token": "…", api_key=…, Authorization: Bearer …
    re.compile(
        rf"(?P<keep>{_SENSITIVE}['\"]?\s{{0,3}}[=:]\s{{0,3}}(?:(?:Bearer|Basic|Token)\s)?){_VALUE}",
        re.I,
    ),
    # PostgreSQL: Key (email)=(someone@example.com) already exists.
    re.compile(r"(?P<keep>\bKey \([^)\n]{1,256}\)=)\([^\n]{0,512}?\)(?= |\.|$)"),
)


def is_secret_name(name: str) -> bool:
    """Return whether a value of this name must not be shown."""
    return bool(_NAME.search(name.replace("-", "_")))


def redact(text: str) -> str:
    """Return the text with passwords in URLs and the values of secret names masked."""
    for pattern in _IN_TEXTS:
        text = pattern.sub(rf"\g<keep>{MASK}", text)
    return text


def redact_urls(text: str) -> str:
    """Return the text with passwords in URLs masked."""
    return _URL.sub(rf"\g<keep>{MASK}", text)
