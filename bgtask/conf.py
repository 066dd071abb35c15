"""Read and validate the settings: BGTASK = {…}, and plain MAX_ATTEMPTS and MAX_RUN_TIME.

The plain settings are those of the original Django Background Task. No other module reads these
settings from Django. Values are validated when they are first read. They are read again whenever
they have changed, so that a test can override them in any way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from bgtask.values import as_text, brief

__all__ = ["Settings", "get_settings"]

DEFAULT_QUEUE = "default"
MAX_DURATION_SECONDS = timedelta(
    days=36_525
).total_seconds()  # Every database can add this much to its clock.
MIN_PARAMS_BYTES = 1_024  # Parameters up to this size are accepted without reading the settings.

RETENTION: Mapping[str, float | None] = MappingProxyType(
    {"successful": 7 * 86_400.0, "cancelled": 30 * 86_400.0, "failed": None}
)
THRESHOLDS: Mapping[str, Any] = MappingProxyType(
    {
        "oldest_ready": (60.0, 300.0),  # Seconds: (warn, fail). None: never judged.
        "failure_ratio": (0.05, 0.20),  # Share of the attempts that ended in the window.
        "failure_window": 900.0,
        "failure_sample": 20,  # With fewer attempts, the ratio is not judged.
        "queues": {},  # {"reports": {"oldest_ready": (600, 3600)}, "batch": {"oldest_ready": None}}
    }
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings in force. All durations are in seconds."""

    max_attempts: int = 25  # Number of executions, including the first.
    max_run_time: float = 3600.0
    lease: float = 60.0  # A worker without a heartbeat for longer loses its tasks.
    heartbeat_interval: float = 10.0
    max_crashes: int = 3
    retry_jitter: float = 0.0  # Share of the back-off. 0.1 adds up to a tenth, at random.
    max_params_bytes: int = 256 * 1024
    retention: Mapping[str, float | None] = field(default_factory=lambda: RETENTION)
    grace_period: float = 30.0  # Time that a stopping worker gives its tasks to end.
    listen: str | Literal[False] | None = None  # Alias for LISTEN. None: that of the tasks.
    monitor_tokens: tuple[str, ...] = ()
    thresholds: Mapping[str, Any] = field(default_factory=lambda: THRESHOLDS)


def get_settings() -> Settings:
    """Return the settings in force; raise ImproperlyConfigured naming one that is wrong."""
    global _read, _settings
    raw = _raw()
    if _settings is None or _differs(raw, _read):
        _settings = _parse(raw)
        _read = deepcopy(raw)  # A project may change a value inside in place.
    return _settings


def _differs(raw: dict[str, Any], read: dict[str, Any]) -> bool:
    try:
        return raw != read
    except Exception:  # The values are a project's own, and comparing them may fail.
        return True


_read: dict[str, Any] = {}
_settings: Settings | None = None

# Names from unreleased versions, and the names that replaced them.
_RENAMED = {
    "KEEP": "RETENTION",
    "GRACE": "GRACE_PERIOD",
    "HEARTBEAT": "HEARTBEAT_INTERVAL",
    "JITTER": "RETRY_JITTER",
}
_PLAIN = ("MAX_ATTEMPTS", "MAX_RUN_TIME")  # Names of the original Django Background Task.


def _raw() -> dict[str, Any]:
    raw = {
        name: getattr(django_settings, name) for name in _PLAIN if hasattr(django_settings, name)
    }
    options = getattr(django_settings, "BGTASK", {})
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(f"BGTASK must be a dictionary, not {brief(options)}.")
    return {**raw, **options}


def _parse(raw: Mapping[str, Any]) -> Settings:
    known = {option.name.upper() for option in fields(Settings)}
    for name in raw:
        if new_name := _RENAMED.get(name):
            raise ImproperlyConfigured(
                f"BGTASK[{name!r}] is now BGTASK[{new_name!r}]. Rename the key, and keep its value."
            )
        if name not in known:
            raise ImproperlyConfigured(
                f"Unknown option BGTASK[{brief(name)}]. Known are: {', '.join(sorted(known))}."
            )
    settings = Settings(**{name.lower(): _PARSERS[name](name, raw[name]) for name in raw})
    if settings.lease < 2 * settings.heartbeat_interval:
        raise ImproperlyConfigured(
            f"BGTASK['LEASE'] ({settings.lease:g} s) must be at least twice "
            f"BGTASK['HEARTBEAT_INTERVAL'] ({settings.heartbeat_interval:g} s), better six times: "
            "workers would lose their tasks between two heartbeats."
        )
    return settings


def _wrong(name: str, expected: str, value: Any) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"BGTASK[{name!r}] must be {expected}, not {brief(value)}.")


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000_000:
        raise _wrong(name, "a whole number of at least 1", value)
    return int(value)


def _crashes(name: str, value: Any) -> int:
    # With 1, every task that a worker holds when it dies would be blamed for the crash.
    if (crashes := _count(name, value)) < 2:
        raise _wrong(name, "a whole number of at least 2", value)
    return crashes


def _bytes(name: str, value: Any) -> int:
    if (size := _count(name, value)) < MIN_PARAMS_BYTES:
        raise _wrong(name, f"a number of bytes of at least {MIN_PARAMS_BYTES}", value)
    return size


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= MAX_DURATION_SECONDS
    ):
        raise _wrong(name, "a duration: seconds or a timedelta, up to a hundred years", value)
    return float(value)


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:
        raise _wrong(name, "a share of the wait, from 0 to 10", value)
    return float(value)


def _ratio(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise _wrong(name, "a part of what finished, above 0 and up to 1", value)
    return float(value)


def _retention(name: str, value: Any) -> Mapping[str, float | None]:
    if not isinstance(value, Mapping) or not value.keys() <= RETENTION.keys():
        raise _wrong(name, f"a dictionary with any of the keys {', '.join(RETENTION)}", value)
    ages = {
        outcome: None if age is None else _seconds(f"{name}.{outcome}", age)
        for outcome, age in value.items()
    }
    return MappingProxyType({**RETENTION, **ages})


def _listen(name: str, value: Any) -> str | Literal[False] | None:
    if value is None or value is True:
        return None
    if value is False:
        return False
    if (alias := _text(value)) is None or alias not in list(connections):
        known = ", ".join(sorted(connections))
        raise _wrong(name, f"an alias in DATABASES ({known}), True or False", value)
    if (vendor := connections[alias].vendor) != "postgresql":
        raise ImproperlyConfigured(
            f"BGTASK[{name!r}] is {alias!r}, a database of {vendor}. Only PostgreSQL has LISTEN: "
            f"leave BGTASK[{name!r}] out."
        )
    return alias


def _tokens(name: str, value: Any) -> tuple[str, ...]:
    tokens = [_text(token) for token in value] if isinstance(value, list | tuple) else [None]
    known = tuple(token for token in tokens if token is not None)
    if len(known) < len(tokens):
        raise _wrong(name, "a list of strings", "<hidden>")
    if not all(token.strip() for token in known):
        raise _wrong(name, "a list of strings that are not blank", "<hidden>")
    return known


def _thresholds(name: str, value: Any, known: Mapping[str, Any] = THRESHOLDS) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value.keys() <= known.keys():
        raise _wrong(name, f"a dictionary with any of the keys {', '.join(known)}", value)
    parsed = dict(value)
    for limit, parse in (("oldest_ready", _seconds), ("failure_ratio", _ratio)):
        pair = value.get(limit)
        if pair is None:
            continue
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _wrong(f"{name}.{limit}", "a pair (warn, fail), or None", pair)
        parsed[limit] = tuple(parse(f"{name}.{limit}", number) for number in pair)
        if parsed[limit][0] > parsed[limit][1]:
            raise _wrong(f"{name}.{limit}", "a pair with warn before fail", pair)
    if "failure_window" in value:
        parsed["failure_window"] = _seconds(f"{name}.failure_window", value["failure_window"])
    if "failure_sample" in value:
        parsed["failure_sample"] = _count(f"{name}.failure_sample", value["failure_sample"])
    if "queues" in value:
        if not isinstance(value["queues"], Mapping):
            raise _wrong(f"{name}.queues", "a dictionary of queues", value["queues"])
        of_a_queue = {key: limit for key, limit in THRESHOLDS.items() if key != "queues"}
        parsed["queues"] = {
            queue: _thresholds(f"{name}.queues.{queue}", limits, of_a_queue)
            for queue, limits in _by_text(f"{name}.queues", value["queues"]).items()
        }
    return MappingProxyType({**THRESHOLDS, **parsed} if known is THRESHOLDS else parsed)


def _by_text(name: str, value: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the dictionary with plain strings as keys."""
    by_text = {}
    for key, item in value.items():
        if (text := _text(key)) is None:
            raise _wrong(name, "a dictionary with names of queues as keys", key)
        by_text[text] = item
    return by_text


def _text(value: Any) -> str | None:
    """Return the value as plain text, or None if it is no text or can't be turned into text."""
    try:
        return as_text(value)
    except Exception:  # A lazy text calls a function of the project.
        return None


_PARSERS: Mapping[str, Callable[[str, Any], Any]] = {
    "MAX_ATTEMPTS": _count,
    "MAX_RUN_TIME": _seconds,
    "LEASE": _seconds,
    "HEARTBEAT_INTERVAL": _seconds,
    "MAX_CRASHES": _crashes,
    "RETRY_JITTER": _share,
    "MAX_PARAMS_BYTES": _bytes,
    "RETENTION": _retention,
    "GRACE_PERIOD": _seconds,
    "LISTEN": _listen,
    "MONITOR_TOKENS": _tokens,
    "THRESHOLDS": _thresholds,
}


def require_autocommit(alias: str) -> None:
    """
    Raise ImproperlyConfigured if autocommit is off for this database.

    Django would then commit nothing by itself.
    """
    if not connections[alias].settings_dict["AUTOCOMMIT"]:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['AUTOCOMMIT'] is False, so nothing that a worker writes is "
            "committed. Remove it, or set it to True, for the database of the queue."
        )
